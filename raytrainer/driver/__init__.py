"""The driver's side of a run: which Ray, how many workers, starting and keeping them, what is said of a failure."""
