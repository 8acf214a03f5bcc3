"""Tests of `data/pairs`."""
