"""The embedded pair's models in NumPy."""
