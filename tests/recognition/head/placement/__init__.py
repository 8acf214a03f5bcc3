"""Tests of `recognition/head/placement`."""
