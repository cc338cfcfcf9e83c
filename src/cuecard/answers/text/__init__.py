"""Elements of a text that readers look for: markup, numerals, units, refusals, marked answers."""
