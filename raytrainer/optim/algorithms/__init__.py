"""The arithmetic of optimizers that are implemented here, one file per method."""
