"""What a lever of memory or time means where its setting leaves it open; the plan and the actor both ask here."""

from collections.abc import Sequence

from pipeline.settings.model import Model


def recomputed_modules(model: Model, chosen: Sequence[str]) -> list[str]:
    """The parts of a layer that `rl.recompute=selective` runs again, in Megatron's words. `chosen`: `rl.recompute_modules`."""
    return [*chosen] or ["moe" if model.experts.count else "mlp"]
