"""Tests of `recognition/head/online_softmax`."""
