"""The training loop: counting, one optimizer step, and what happens at its boundary."""
