"""Finds wrong labels, people who are two labels or one of two, copies, and leaks, by embeddings."""
