"""Tests of `scripts/benchmarks/head`."""
