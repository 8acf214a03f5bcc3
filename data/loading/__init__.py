"""Batches: decoding, threads, and how many of them."""
