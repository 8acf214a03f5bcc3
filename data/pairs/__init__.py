"""Verification sets: their files, and lists and choices of pairs for them."""
