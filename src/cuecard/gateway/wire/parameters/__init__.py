"""The parameters of a request: what is read, handed on, or refused."""
