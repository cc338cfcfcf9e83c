"""Studies: what is run, in which directory, and what it will cost."""
