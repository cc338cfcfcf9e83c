"""A run's database: requests and their cache keys, calls, answers."""
