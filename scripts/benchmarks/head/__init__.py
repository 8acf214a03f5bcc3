"""What `scripts/benchmark_head.py` is made of: methods, processes, measuring, the report."""
