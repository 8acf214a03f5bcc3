"""What the benchmarks share: the facts of the machine, and the form of a table."""
