"""Hugging Face tensors <-> Megatron parameters: one declared mapping, used by convert, export and weight sync."""

from megatron_patches.model.weights.mapping import Entry, entries
from megatron_patches.model.weights.transfer import export_tensors, load_hf

__all__ = ["Entry", "entries", "export_tensors", "load_hf"]
