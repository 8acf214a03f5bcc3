"""Which class centres take part in a step."""
