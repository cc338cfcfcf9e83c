"""Evaluations: tasks, their scorers, runs that store every call once, and what the stored answers show."""
