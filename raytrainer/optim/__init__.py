"""Which optimizer trains which parameters, and what it needs from the loop."""
