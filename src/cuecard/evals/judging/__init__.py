"""Judge models: they read or grade replies that scorers cannot score; the results are separate from a run's scores."""
