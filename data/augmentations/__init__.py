"""The changes that `augment` makes to a batch, a module a kind, and how they are decided."""
