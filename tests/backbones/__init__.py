"""Tests of `backbones`."""
