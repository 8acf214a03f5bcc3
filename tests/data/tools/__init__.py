"""Tests of `data/tools`."""
