"""Policy losses by name. Each is a small pure function from tokens to one number a token; see docs/custom-algorithm.md."""

from pipeline.objectives.losses import cispo, gspo, surrogate  # noqa: F401  (they register themselves)
from pipeline.objectives.losses.registry import Loss, get, names, of, register

__all__ = ["Loss", "get", "names", "of", "register"]
