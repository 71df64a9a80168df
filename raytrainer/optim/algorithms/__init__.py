"""Optimizers that are written here, one file for each method."""
