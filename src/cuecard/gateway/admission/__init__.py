"""Admission of requests: keys, budgets, origins, slow and disconnected clients."""
