"""Cooperation schemes at equal budgets: their settings, the oracle, and their comparison on a run's answers."""
