"""The training of the embedded pair; the package `cuecard` does not need it."""
