"""Where class centres live."""
