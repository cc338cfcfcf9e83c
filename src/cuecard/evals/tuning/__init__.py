"""Choosing a policy and an acceptance table from the answers of a run."""
