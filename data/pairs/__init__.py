"""Verification sets: files of pairs, and choosing pairs."""
