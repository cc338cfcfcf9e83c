"""Evaluations: tasks, scorers, runs that store every call once, and analyses of the stored answers."""
