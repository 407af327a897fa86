"""What to log, as sums that add up: over micro-batches, over ranks, and then once into numbers."""
