"""The commands around latency: profiles, fits, break-even points, estimates."""
