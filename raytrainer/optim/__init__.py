"""Which optimizer trains which parameters, and what it demands of the loop."""
