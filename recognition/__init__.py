"""Training of face recognition networks: config, head, trainer, checkpoints, telemetry."""
