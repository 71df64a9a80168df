"""Evaluation and prediction: the loop, gathering over ranks, and accumulating results."""
