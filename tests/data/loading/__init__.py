"""Tests of `data/loading`."""
