"""The Model protocol, prompt layouts, and what speaks to real models."""
