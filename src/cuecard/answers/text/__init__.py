"""What readers look for in a text: markup, numerals, dates, units, refusals, marked answers."""
