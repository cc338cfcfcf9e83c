"""A run's totals by task and arm, refused where they do not add up."""
