"""What the benchmarks share: command line, report, turns, processes, and facts of the machine."""
