"""The protocols of the field, each a module that reads as its definition."""
