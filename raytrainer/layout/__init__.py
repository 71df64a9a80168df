"""How tensors lie on ranks: process groups, rows of a matrix, the shard that each rank holds."""
