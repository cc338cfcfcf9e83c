"""The commands around evaluations."""
