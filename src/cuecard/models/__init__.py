"""The Model protocol, prompt layouts, and models: local, served, recorded and simulated."""
