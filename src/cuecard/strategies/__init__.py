"""Strategies: which calls are made for a question, and which answer is given."""
