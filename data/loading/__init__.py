"""Batches of decoded images, and the threads that make them."""
