"""Strategies: which calls a question gets, and whose answer is given."""
