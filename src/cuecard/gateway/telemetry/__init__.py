"""Records of requests: metrics, journal, traces."""
