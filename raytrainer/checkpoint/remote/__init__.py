"""Checkpoints in a bucket: committed, found, fetched and deleted by the rules of the directories of a disk."""
