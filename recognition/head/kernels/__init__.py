"""The elementwise work of the passes: one interface, three forms."""
