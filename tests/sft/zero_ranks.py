"""Run by test_zero.py on two real ranks: DeepSpeed's ZeRO at every stage makes the same warm-up."""

import math
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from tiny_models import tiny_model

from pipeline.common.errors import UserError
from pipeline.models.folders import random_model
from pipeline.models.partitioned import load_partitioned
from pipeline.settings import Sft
from pipeline.sft import engine as zero
from pipeline.sft.packing import IGNORED, PackedRows
from pipeline.stage import StageRun
from stages.sft import LossHead, train_step

LENGTH, VOCAB = 16, 64


class PoisonedHead(LossHead):
    """A loss that is NaN on demand."""

    factor = 1.0

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden) * self.factor


def rows(count: int) -> PackedRows:
    generator = torch.Generator().manual_seed(count)
    tokens = torch.randint(VOCAB, (count, LENGTH), generator=generator)
    labels = torch.where(torch.arange(LENGTH) < 5, IGNORED, tokens)
    return PackedRows(tokens, labels, torch.arange(LENGTH).expand(count, -1), torch.ones_like(tokens))


def build(folder: Path, sft: Sft):
    from transformers import AutoModelForCausalLM

    config = zero.engine_config(sft, accumulation=2, bf16=False)
    if sft.zero_stage == 3:
        model = load_partitioned(folder, config, torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(str(folder), attn_implementation="sdpa", dtype=torch.float32)
    model.lm_head = PoisonedHead(model.lm_head)
    model.gradient_checkpointing_enable()
    return zero.build_engine(model, sft, config)


def reference(folder: Path, batch: PackedRows) -> float:
    """The first loss, from whole logits."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(folder), attn_implementation="sdpa", dtype=torch.float32)
    with torch.no_grad():
        logits = model(
            batch.tokens, attention_mask=batch.attention_mask(torch.float32), position_ids=batch.positions
        ).logits
    return float(
        torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), batch.labels[:, 1:].flatten(), ignore_index=IGNORED
        )
    )


def warm_up(folder: Path, run: StageRun, stage: int, out: Path) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses of three steps, the last after a save, a step of NaN and a load; and the weights."""
    sft = Sft(zero_stage=stage, micro_batch_size=2, batch_size=8, weight_decay=0.1)
    engine = build(folder, sft)
    losses = [train_step(engine, rows(8), 1e-2, run, 2) for _ in range(2)]
    zero.save_progress(engine, out / f"stage{stage}", 2)
    before = zero.whole_state(engine)
    engine.module.lm_head.factor = math.nan if run.rank == 1 else 1.0
    loss, skipped = train_step(engine, rows(8), 1e-2, run, 2)
    assert skipped, f"stage {stage}: a NaN of rank 1 is not skipped on rank {run.rank}"
    assert math.isnan(loss)
    after = zero.whole_state(engine)
    assert all(before[name].equal(after[name]) for name in before), stage
    engine.module.lm_head.factor = 1.0
    if stage in (1, 3):
        engine = build(folder, sft)
        assert zero.load_progress(engine, out / f"stage{stage}") == 2
    losses.append(train_step(engine, rows(8), 1e-2, run, 2))
    state = zero.whole_state(engine)
    spoil(engine, run.rank)
    with pytest.raises(UserError, match=r"is not saved: model\.norm\.weight holds NaN"):
        zero.save_progress(engine, out / f"stage{stage}", 3)
    assert (out / f"stage{stage}" / "latest").read_text() == "step_0000002"
    assert not any(skipped for _, skipped in losses)
    return [loss for loss, _ in losses], state


def spoil(engine, rank: int) -> None:
    parameter = engine.module.model.norm.weight
    if rank == 1:
        getattr(parameter, "ds_tensor", parameter).data.view(-1)[0] = math.nan


def main(out: Path) -> None:
    zero.connect(5)
    rank = dist.get_rank()
    run = StageRun(settings=None, root=out, rank=rank, world_size=2)  # type: ignore[arg-type]
    for family in ("qwen3", "qwen3_moe"):
        if rank == 0:
            random_model(tiny_model(family), VOCAB, {}, seed=3).save_pretrained(str(out / family))
    dist.barrier()
    first = reference(out / "qwen3", rows(8))
    losses, states = {}, {}
    for stage in range(4):
        losses[stage], states[stage] = warm_up(out / "qwen3", run, stage, out)
        assert abs(losses[stage][0] - first) < 1e-5, (stage, losses[stage], first)
        assert losses[stage][0] - losses[stage][2] > 0.05, "it did not learn"
        assert all(abs(a - b) < 1e-5 for a, b in zip(losses[stage], losses[0], strict=True)), losses
        for name, tensor in states[stage].items():
            assert torch.allclose(tensor, states[0][name], atol=2e-5), (stage, name)

    partitioned(out / "qwen3_moe", rank)
    model = load_partitioned(out / "qwen3", zero.engine_config(Sft(zero_stage=3), 1, bf16=True), torch.bfloat16)
    assert {parameter.ds_tensor.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert {buffer.dtype for buffer in model.buffers()} == {torch.float32}, "rotary frequencies are rounded"


def partitioned(folder: Path, rank: int) -> None:
    """Experts, which a folder holds one by one, come whole."""
    import deepspeed
    from transformers import AutoModelForCausalLM

    model = load_partitioned(folder, zero.engine_config(Sft(zero_stage=3), 1, bf16=False), torch.float32)
    whole = dict(AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32).named_parameters())
    held = {name: parameter.ds_tensor.numel() for name, parameter in model.named_parameters()}
    assert sum(held.values()) < 0.6 * sum(parameter.numel() for parameter in whole.values())
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter]):
            assert parameter.equal(whole[name]), name


if __name__ == "__main__":
    main(Path(sys.argv[1]))
