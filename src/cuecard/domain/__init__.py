"""Frozen values that all packages share: questions, calls, outcomes, errors. Standard library only."""
