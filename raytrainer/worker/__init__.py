"""The function that Ray calls on each worker, the set-up of a trainer in its process, and its tasks."""
