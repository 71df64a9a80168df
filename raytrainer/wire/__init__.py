"""What travels between driver and workers: the spec of a trainer, tasks, failure records, and how they are pickled."""
