"""Verification: pair sets, embedding extraction, the published protocol."""
