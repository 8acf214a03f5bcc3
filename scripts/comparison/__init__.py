"""What `scripts/compare_heads.py` is made of: settings, cells, their figures, and the report."""
