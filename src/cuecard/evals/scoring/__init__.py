"""Scorers, extractors, and stored replies scored again."""
