"""Tests of `scripts/benchmarks/loader`."""
