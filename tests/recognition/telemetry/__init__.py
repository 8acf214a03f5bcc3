"""Tests of recognition.telemetry."""
