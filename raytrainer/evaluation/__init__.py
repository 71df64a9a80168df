"""Evaluation and prediction: the loop, gathering over ranks, and the loss of a whole dataset."""
