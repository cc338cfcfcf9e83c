"""Timing of models in this process, by component."""
