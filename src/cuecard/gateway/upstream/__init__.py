"""Replicas of a model, and cost limits of requests."""
