"""The check of every record of a dataset."""
