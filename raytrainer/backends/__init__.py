"""How one model is trained by several ranks, behind one interface."""
