"""The page of a comparison at equal budgets."""
