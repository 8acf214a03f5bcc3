"""Tests of `scripts/comparison`."""
