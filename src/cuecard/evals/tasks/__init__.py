"""Sources of questions: one module for each file format or generator."""
