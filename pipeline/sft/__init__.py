"""Supervised warm-up: DeepSpeed around a Hugging Face model."""
