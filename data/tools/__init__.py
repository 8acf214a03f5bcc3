"""What the commands for records call."""
