"""Which samples a rank sees, in which order, and in what shape they reach the model."""
