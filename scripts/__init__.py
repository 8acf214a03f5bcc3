"""Commands, one a file: parse, call, print."""
