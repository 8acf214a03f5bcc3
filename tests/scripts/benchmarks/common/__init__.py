"""Tests of `scripts/benchmarks/common`."""
