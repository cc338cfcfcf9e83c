"""Frozen values that cross every room: questions, calls, outcomes, errors. Standard library only."""
