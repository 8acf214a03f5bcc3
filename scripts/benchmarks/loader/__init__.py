"""What `scripts/benchmark_loader.py` is made of: the ways to load, measuring, the report."""
