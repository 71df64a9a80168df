"""Real SIGKILLs of real workers: no committed checkpoint is lost, and the result is unchanged."""
