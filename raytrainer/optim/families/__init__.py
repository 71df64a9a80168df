"""One file for each family of optimizers: the rows of the catalogue."""
