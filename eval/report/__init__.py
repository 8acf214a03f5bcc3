"""The page of a benchmark: one HTML file that shows what `results.json` holds."""
