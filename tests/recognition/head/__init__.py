"""Tests of recognition.head."""
