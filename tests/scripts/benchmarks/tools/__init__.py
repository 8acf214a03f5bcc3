"""Tests of `scripts/benchmarks/tools`."""
