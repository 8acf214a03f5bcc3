"""Attacks that stay: minutes of them in the test suite, hours on request (`python -m`)."""
