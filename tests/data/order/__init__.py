"""Tests of `data/order`."""
