"""Training of the embedded pair: data, losses, optimiser, recipes."""
