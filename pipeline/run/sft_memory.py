"""An estimate of the memory of the warm-up: one rank of DeepSpeed's ZeRO at its stage. All numbers are bytes."""

from dataclasses import dataclass

from pipeline.run.memory import GIB, OVERHEAD_GIB, activations
from pipeline.run.shapes import count
from pipeline.settings import Layout, Rl, Settings

LIVE = 10**9
"""Parameters that ZeRO 3 holds whole at once (DeepSpeed's stage3_max_live_parameters)."""
BUCKET = 5 * 10**8
"""Elements of the one bucket in which ZeRO sums gradients: allocated whole, however small the model is (docs/log.md)."""
TILE = 4096 * 8192
"""Logits that the policy head holds at once."""


@dataclass(frozen=True)
class SftMemory:
    """One rank's memory."""

    weights: int
    gradients: int
    optimizer: int
    """fp32 masters and Adam's two moments."""
    buffers: int
    """Communication buckets, and with ZeRO 3 the layers that are gathered at the moment."""
    activations: int
    head: int
    """A tile of logits, the gradients of hidden states and output weight."""
    overhead: int

    @property
    def states(self) -> int:
        """What stays on the device."""
        return self.weights + self.gradients + self.optimizer + self.overhead

    @property
    def peak(self) -> int:
        return self.states + self.buffers + self.activations + self.head


def estimate(settings: Settings, ranks: int, on_gpu: bool) -> SftMemory:
    """Memory of a rank of the warm-up over `ranks` ranks."""
    sft, model = settings.sft, settings.model
    total, stage = count(model).total, sft.zero_stage
    element = 2 if model.dtype == "bf16" else 4
    tokens = sft.micro_batch_size * sft.sequence_length
    alone = settings.model_copy(
        update={
            "layout": Layout(micro_batch_tokens=tokens),
            "rl": Rl(recompute="full" if sft.gradient_checkpointing else "none", rows=settings.rl.rows),
        }
    )
    live = min(LIVE, total) if stage == 3 else 0
    # On a CPU the pages of a bucket that are never written take no memory.
    bucket = (BUCKET if on_gpu else min(BUCKET, total)) if stage else 0
    # Without ZeRO fp32 weights are their own masters.
    kept = 8 if stage == 0 and element == 4 else 12
    return SftMemory(
        weights=total * element // (ranks if stage == 3 else 1),
        # Stage 2 was measured to hold as much as stage 1 between steps.
        gradients=total * element // (ranks if stage == 3 else 1),
        optimizer=kept * total // (ranks if stage >= 1 else 1),
        buffers=(live + bucket) * element,
        activations=activations(alone, tokens, on_gpu, in_flight=1)[0] * element,
        head=4 * min(TILE, tokens * model.vocab_size) + model.hidden_size * (4 * tokens + element * model.vocab_size),
        overhead=int(OVERHEAD_GIB * GIB) if on_gpu else 0,
    )
