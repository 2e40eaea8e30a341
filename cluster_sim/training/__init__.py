"""Training: the order of a step's operations, and how they play on the machine."""
