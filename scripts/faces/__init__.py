"""What the commands that use a trained network have in common."""
