"""Virtual time: what a strategy would cost, without waiting for it."""
