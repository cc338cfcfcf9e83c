"""The report of a showcase: one page, and tables for a terminal."""
