"""Which sample stands at which position of the stream."""
