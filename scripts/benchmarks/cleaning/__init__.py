"""Faults planted among the demo's people, and how many of them the command finds."""
