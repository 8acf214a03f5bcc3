"""What `scripts/benchmark_head.py` consists of: methods, processes, measuring, the report."""
