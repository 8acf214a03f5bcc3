"""Random changes of training batches: one module per kind, and how they are decided."""
