"""The softmax over any number of classes, in two passes over blocks of centres."""
