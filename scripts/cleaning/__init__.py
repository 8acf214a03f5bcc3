"""What `scripts/clean_records.py` consists of, but for the algorithms in `data/cleaning/`."""
