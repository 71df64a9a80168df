"""The worker's side: where a trainer is bound to a process, and the runtimes that it may be bound to."""
