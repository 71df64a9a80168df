"""How tensors lie on ranks: process groups, rows, local slices, flat runs."""
