"""What is checked of a trainer, its data and its output directory before anything starts."""
