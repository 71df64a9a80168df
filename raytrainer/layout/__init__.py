"""How tensors are distributed over ranks: process groups, rows of a matrix, the shard that each rank holds."""
