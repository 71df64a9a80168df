"""Writes the pages of the documentation that are tables of what the code decides."""
