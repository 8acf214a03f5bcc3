"""Tests of `data/demo`."""
