"""Runs: calls are scheduled, made by workers, stored, and composed into answers."""
