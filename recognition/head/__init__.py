"""The classification head: class centres, sampling, margins, exact streaming softmax."""
