"""Latency of a request by component: readings, fits, break-even points, rooflines."""
