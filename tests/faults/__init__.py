"""Real SIGKILLs of real workers: nothing that was committed is lost, and nothing changes in the result."""
