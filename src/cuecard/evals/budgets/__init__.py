"""Cooperation schemes at equal budgets: their settings, the oracle, and what both make of a run's answers."""
