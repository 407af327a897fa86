"""How much floating-point work the updates do, and what the devices could do at most: the two parts of MFU."""

from collections.abc import Iterable

from pipeline.settings import Model

PEAKS = (
    ("B200", 2250e12), ("B100", 1750e12), ("H200", 989e12), ("H100 PCIe", 756e12), ("H100", 989e12), ("H800", 989e12),
    ("H20", 148e12), ("A100", 312e12), ("A800", 312e12), ("L40S", 362e12), ("L40", 181e12), ("L4", 121e12), ("A40", 150e12),
    ("RTX 4090", 165e12), ("V100", 125e12),
)  # fmt: skip
"""Part of a GPU's name -> dense bf16 (V100: fp16) operations a second, from the vendor's data sheets. The first match
counts, so the longer name of two comes first."""


def peak_of(device_name: str) -> float | None:
    """A device's bf16 peak in operations a second; None where it is not known (CPUs)."""
    return next((peak for part, peak in PEAKS if part in device_name), None)


def update_operations(model: Model, active_parameters: int, lengths: Iterable[int]) -> float:
    """Model operations of one forward and backward pass over sequences of these lengths (prompt and response tokens).

    Each token costs 6 operations for each parameter that it meets (2 forward, 4 backward), and attention adds
    12 L H d for each earlier token, of which causality leaves half (Narayanan et al., arXiv 2104.04473; PaLM, appendix B).
    Recomputed activations do not count: MFU is about the work that the model asks for.
    """
    attention = 12 * model.num_layers * model.num_attention_heads * model.head_dim
    return float(sum(6 * active_parameters * n + attention * n * n / 2 for n in lengths))


def active_parameters(model: Model, visited: int) -> int:
    """Parameters that a token meets: those of the experts and layers that it visits, without the embedding table, which is
    looked up (a tied one is also the output layer and counts)."""
    return visited - (0 if model.tie_word_embeddings else model.vocab_size * model.hidden_size)
