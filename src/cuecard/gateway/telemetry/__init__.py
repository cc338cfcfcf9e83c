"""What the gateway keeps of requests: metrics, journal, traces."""
