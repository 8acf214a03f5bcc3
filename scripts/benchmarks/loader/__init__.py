"""What `scripts/benchmark_loader.py` consists of: the ways to load, measuring, the report."""
