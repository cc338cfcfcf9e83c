"""A reader for each kind of answer: the one value that a reply gives."""
