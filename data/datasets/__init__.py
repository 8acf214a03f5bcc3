"""What a user names, made into one dataset."""
