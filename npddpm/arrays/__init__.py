"""What the mathematics stands on, and a reader may skip: array modules, refusals, memory."""
