"""Tests of `scripts/dashboards` and the command over it."""
