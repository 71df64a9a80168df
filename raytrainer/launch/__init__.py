"""The driver's side: what is shipped to workers, how they are started and kept, and how a failure is told."""
