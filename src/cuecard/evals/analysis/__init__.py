"""Analyses of the stored answers of a run."""
