"""Elements of a text that readers look for: markup, numerals, units, statements, claims, and tags of reasoning."""
