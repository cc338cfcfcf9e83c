"""The report of a latency profile."""
