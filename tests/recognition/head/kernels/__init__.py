"""Tests of `recognition/head/kernels`."""
