"""The latency commands: profiles, fits, break-even points, estimates."""
