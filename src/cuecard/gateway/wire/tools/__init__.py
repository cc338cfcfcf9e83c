"""Tools of a request: schema, calls, history."""
