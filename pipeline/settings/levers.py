"""What a lever of memory or time means where its setting leaves it open; the plan and the actor both ask here."""

from collections.abc import Sequence

from pipeline.settings.model import Model
from pipeline.settings.training import Rl


def recomputed_modules(model: Model, chosen: Sequence[str]) -> list[str]:
    """The parts of a layer that `rl.recompute=selective` runs again, in Megatron's words. `chosen`: `rl.recompute_modules`."""
    return [*chosen] or ["moe" if model.experts.count else "mlp"]


def of_transformer_engine(rl: Rl) -> list[str]:
    """The settings, as they are typed, that nothing but Transformer Engine can do."""
    chosen = {
        "rl.attention=te": rl.attention == "te",
        "rl.fused_rope=true": rl.fused_rope,
        f"rl.fp8={rl.fp8}": rl.fp8 != "none",
        "rl.optimizer.precision_aware=true": rl.optimizer.precision_aware,
    }
    return [name for name, is_set in chosen.items() if is_set]


def without_transformer_engine(rl: Rl) -> Rl:
    """`rl` for a machine where it cannot be imported, as a rehearsal's."""
    optimizer = rl.optimizer.model_copy(update={"precision_aware": False, "moments": "fp32"})
    off = {"attention": "torch", "fused_rope": False, "fp8": "none", "optimizer": optimizer}
    return rl.model_copy(update=off)


def fp8_multiple(rl: Rl) -> int:
    """Tokens to whose multiple a rank's part of a sequence is padded: FP8 kernels refuse other products."""
    return {"none": 1, "mxfp8": 32}.get(rl.fp8, 16)
