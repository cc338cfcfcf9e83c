"""Statistics: shares, intervals, bootstrap, paired tests. Independent of evaluations."""
