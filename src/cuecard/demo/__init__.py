"""The tasks of the embedded pair, boards of digits and easy-VQA, and the run of `cuecard demo`."""

EXTRA = "pip install '.[demo]' in a checkout"
"""What to do if a package of the tasks is missing."""
