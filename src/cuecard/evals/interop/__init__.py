"""Other tools' files: predictions become a run, a run's answers become files."""
