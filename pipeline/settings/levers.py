"""What a lever of memory or time means where its setting leaves it open; the plan and the actor both ask here."""

from pipeline.settings.model import Model
from pipeline.settings.training import Rl


def recomputed_modules(model: Model, rl: Rl) -> list[str]:
    """The parts of a layer that `rl.recompute=selective` runs again, in Megatron's words."""
    return [*rl.recompute_modules] or ["moe" if model.experts.count else "mlp"]
