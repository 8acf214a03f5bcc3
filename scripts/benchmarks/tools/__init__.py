"""What `scripts/benchmark_tools.py` is made of."""
