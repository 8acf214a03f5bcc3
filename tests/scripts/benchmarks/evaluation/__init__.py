"""Tests of `scripts.benchmark_evaluation`."""
