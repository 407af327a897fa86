"""Policy losses by name. Each is a small pure function from tokens to one number per token.

docs/custom-algorithm.md shows how to add one.
"""

from pipeline.objectives.losses import (  # noqa: F401  (they register themselves)
    abc_grpo,
    adaptive,
    bapo,
    cispo,
    codapo,
    gspo,
    sapo,
    surrogate,
)
from pipeline.objectives.losses.registry import Loss, get, names, of, register

__all__ = ["Loss", "get", "names", "of", "register"]
