"""Tests of `recognition/head/losses`."""
