"""Checkpoints: their names and files, how one becomes committed, how one is found, verified, loaded and deleted."""
