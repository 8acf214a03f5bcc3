"""What `scripts/benchmark_detection.py` measures."""
