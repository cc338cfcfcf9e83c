"""Applications for clusters."""
