"""Who is let in: keys, budgets, slow and lost clients, images from the web."""
