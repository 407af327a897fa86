"""Metrics as sums: they add up over micro-batches and ranks, and become numbers once at the end."""
