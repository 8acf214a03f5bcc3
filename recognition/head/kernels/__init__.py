"""The elementwise work of the passes, in three forms."""
