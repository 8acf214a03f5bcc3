"""What the benchmarks share: their frame, the facts of the machine, and the form of a table."""
