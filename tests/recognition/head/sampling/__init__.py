"""Tests of `recognition/head/sampling`."""
