"""One module for each part of a folder of golden values, and the comparison of figures."""
