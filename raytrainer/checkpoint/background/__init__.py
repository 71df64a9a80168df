"""Saves beside training: one copy of the state in host memory, and a process of its own that writes it."""
