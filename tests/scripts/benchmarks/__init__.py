"""Tests of `scripts/benchmarks`."""
