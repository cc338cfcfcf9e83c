"""Predictions of strategies from fitted latency models: simulations, break-even points, plans."""
