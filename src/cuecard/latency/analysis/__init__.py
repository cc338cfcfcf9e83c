"""From readings to medians, rooflines, and fitted latency models."""
