"""What is computed over the class centres that take part."""
