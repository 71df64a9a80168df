"""Callbacks: dispatching the 16 events, the default flow of a run, and what callbacks leave in a checkpoint."""
