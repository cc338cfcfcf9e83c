"""The tasks of the embedded pair, boards of digits and easy-VQA, and the run of `cuecard demo`."""
