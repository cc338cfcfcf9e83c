"""Files of other tools: their predictions become runs, and runs become files that they read."""
