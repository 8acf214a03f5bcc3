"""What `scripts/compare_heads.py` consists of: settings, runs, their figures, and the report."""
