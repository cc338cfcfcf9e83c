"""What readers look for in a text: markup, numerals, units, refusals, marked answers."""
