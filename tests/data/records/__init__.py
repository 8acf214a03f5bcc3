"""Tests of `data/records`."""
