"""Tests of `recognition/head/optim`."""
