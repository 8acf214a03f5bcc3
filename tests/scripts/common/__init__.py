"""Tests of `scripts/common`."""
