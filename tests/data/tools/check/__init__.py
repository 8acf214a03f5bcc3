"""Tests of `data/tools/check`."""
