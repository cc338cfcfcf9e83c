"""Other tools' files: import predictions as a run, export a run's answers."""
