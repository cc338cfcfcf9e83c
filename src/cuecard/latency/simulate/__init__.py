"""What strategies would cost by fitted latency models: simulations, break-even points, plans."""
