"""Networks that turn aligned face images into embeddings."""
