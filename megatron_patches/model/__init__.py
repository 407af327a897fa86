"""The actor's model: layers, checkpoints, and the mapping to Hugging Face weights."""
