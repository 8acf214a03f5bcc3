"""Row optimizers, and the rounding of what they keep."""
