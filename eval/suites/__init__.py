"""Suites: sets and protocols in a file, run on any network."""
