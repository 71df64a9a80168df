"""The Hub: a repository there, what is written about a model, and uploads that nobody waits for."""
