"""Tests of `data/datasets`."""
