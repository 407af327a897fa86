"""What a lever of memory or time means where its setting leaves it open; the plan and the actor both ask here."""

from collections.abc import Sequence

from pipeline.common.errors import UsageError
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


BACKEND = "model.backend=te"
OF_LAYERS = (BACKEND, "rl.attention=", "rl.fp8=")
"""What is done inside Transformer Engine's layers. Its rotation and its optimizer work with local layers as well."""


def check_transformer_engine(named: Sequence[str], model: Model, why_not: str | None) -> None:
    """The one rule of what Transformer Engine's settings need; the plan, the launcher and every rank ask here.

    Args:
        named: those of `of_transformer_engine`, and `BACKEND`.
        why_not: why it cannot be used, as a clause; None if it can, or if that is not known yet.

    Raises:
        UsageError: it cannot be used, or not with this model's numbers or layers.
    """
    for name in named:
        cure = "Use model.backend=auto." if name == BACKEND else "Remove the key."
        if why_not is not None:
            raise UsageError(f"{name} needs Transformer Engine on GPUs (docs/cluster.md), and {why_not}. {cure}")
        if name != BACKEND and model.dtype == "fp32":
            raise UsageError(f"{name} with model.dtype=fp32: Transformer Engine's kernels are for bf16. {cure}")
        if model.backend == "local" and name.startswith(OF_LAYERS):
            raise UsageError(f"{name} needs layers of Transformer Engine, and model.backend=local. {cure}")


def without_transformer_engine(rl: Rl) -> Rl:
    """`rl` for a machine where it cannot be imported, as a rehearsal's."""
    optimizer = rl.optimizer.model_copy(update={"precision_aware": False, "moments": "fp32"})
    off = {"attention": "torch", "fused_rope": False, "fp8": "none", "optimizer": optimizer}
    return rl.model_copy(update=off)


def fp8_multiple(rl: Rl) -> int:
    """Tokens to whose multiple a rank's part of a sequence is padded: FP8 kernels refuse other products."""
    return {"none": 1, "mxfp8": 32}.get(rl.fp8, 16)
