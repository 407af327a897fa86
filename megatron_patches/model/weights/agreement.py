"""Whether converted weights compute what transformers computes: the logits of a few tokens, on the CPU."""

from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
import torch.distributed as dist

from pipeline.common.errors import InputError
from pipeline.settings import Layout, Model

TOKENS = 16
"""A multiple of every usual tensor-parallel size, which sequence parallelism needs."""
MEMORY_SHARE = 0.25
"""Most of the free memory that transformers' copy of the model may take."""
TOLERANCE = {"fp32": 1e-4, "bf16": 0.1}
"""Largest difference, as a share of the logits' root mean square. Rounding alone gives about 1e-6 in fp32; in bf16 it gave
1.5 % to 3.5 % in random models of 4 to 48 layers, and a forgotten q/k/v bias 20 % to 32 %."""


@dataclass(frozen=True)
class Agreement:
    """Differences between our logits and transformers'."""

    largest: float
    """Largest absolute difference."""
    share: float
    """Root mean square of the differences, as a share of that of the logits."""


def why_not(model: Model, layout: Layout, parameters: int) -> str | None:
    """Why the logits cannot be compared here, or None."""
    if layout.pp > 1 or layout.cp > 1:
        return f"layout.pp={layout.pp} and layout.cp={layout.cp} cut the model or its sequences"
    need, free = parameters * (4 if model.dtype == "fp32" else 2), psutil.virtual_memory().available
    if need > MEMORY_SHARE * free:
        return (
            f"transformers' copy takes {need / 2**30:.1f} GiB, more than a quarter of the free {free / 2**30:.1f} GiB"
        )
    return None


def compare(chunks: list, model: Model, folder: Path) -> Agreement | None:
    """Both models' logits of random tokens (a collective). None on all ranks but rank 0, which alone loads `folder`."""
    ids = torch.randint(0, model.vocab_size, (1, TOKENS), generator=torch.Generator().manual_seed(0))
    found = logits_of(chunks, ids)[..., : model.vocab_size].float().cpu()
    if dist.get_rank() != 0:
        return None
    return difference(found, published_logits(folder, ids, model.dtype))


def difference(found: torch.Tensor, expected: torch.Tensor) -> Agreement:
    """`found` and `expected` logits [..., vocab] in fp32."""
    delta = found - expected
    return Agreement(float(delta.abs().max()), float(delta.square().mean().sqrt() / expected.square().mean().sqrt()))


@torch.no_grad()
def logits_of(chunks: list, ids: torch.Tensor) -> torch.Tensor:
    """The actor's logits [b, s, padded vocab] of `ids` [b, s], gathered over tensor-parallel ranks; a model in one chunk."""
    device = next(chunks[0].parameters()).device
    positions = torch.arange(ids.shape[1], device=device)[None].expand_as(ids)
    training = chunks[0].training
    try:
        return chunks[0].eval()(ids.to(device), positions, None, runtime_gather_output=True)
    finally:
        chunks[0].train(training)


@torch.no_grad()
def published_logits(folder: Path, ids: torch.Tensor, dtype: str) -> torch.Tensor:
    """transformers' logits [b, s, vocab] of `ids` in fp32, computed in `dtype` on the CPU."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    kind = torch.bfloat16 if dtype == "bf16" else torch.float32
    # The sdpa kernel, as in the actor; eager attention has other roundings.
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(folder), dtype=kind, attn_implementation="sdpa", local_files_only=True
    )
    return model.eval()(ids).logits.float()


def check(agreement: Agreement, model: Model, folder: Path) -> None:
    """Raises InputError where the difference is more than rounding."""
    if not agreement.share <= TOLERANCE[model.dtype]:
        raise InputError(
            f"{folder}: the converted model does not compute what transformers does: its logits differ by "
            f"{agreement.share:.2g} of their size (largest difference {agreement.largest:.3g}; at most "
            f"{TOLERANCE[model.dtype]:g} is rounding in {model.dtype}). Do not train it; report the folder's config.json"
        )
