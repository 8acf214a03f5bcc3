"""What `scripts/benchmark_tools.py` consists of: images, cases, the report."""
