"""Where questions come from: a file format or a generator a module."""
