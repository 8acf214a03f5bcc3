"""The order of samples: which one is at each position of the stream."""
