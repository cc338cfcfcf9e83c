"""Replicas of a model, and what a request may cost there."""
