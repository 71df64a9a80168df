"""Optimizers made of others: on owners, on low-rank gradients, in the backward pass."""
