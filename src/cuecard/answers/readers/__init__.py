"""A reader for each kind of answer, which finds the value of a reply."""
