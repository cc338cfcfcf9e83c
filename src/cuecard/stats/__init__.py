"""Statistics: shares, intervals, bootstrap, paired tests. Knows nothing of evaluations."""
