"""Records, datasets, sample order, loading, augmentation, synthetic faces."""
