"""`cuecard.toml`: pairs, keys, limits, and the names of the models that are served."""
