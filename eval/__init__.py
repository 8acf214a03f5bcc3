"""Verification: pair sets, their embeddings, and the published protocol."""
