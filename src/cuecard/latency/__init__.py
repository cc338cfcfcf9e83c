"""Where the time of a request goes: readings, fits, break-even points, rooflines."""
