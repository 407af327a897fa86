"""Supervised warm-up: a Hugging Face model learns worked examples, packed, under DeepSpeed ZeRO on every rank.

The phases of `sft.phases` follow one another, each with its own rows and learning rate. A killed warm-up continues from its
last DeepSpeed checkpoint with the same batches.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from megatron_patches.policy_head import token_logprobs
from pipeline.common import heartbeat
from pipeline.common.errors import DivergenceError, InputError, UsageError
from pipeline.common.files import append_jsonl, read_jsonl, write_jsonl
from pipeline.data.tokenizer import load as load_tokenizer
from pipeline.models import folders as hf
from pipeline.models.partitioned import load_partitioned
from pipeline.models.tensors import readable
from pipeline.settings import Sft
from pipeline.sft.engine import (
    accumulation_steps,
    build_engine,
    connect,
    engine_config,
    is_skipped,
    load_progress,
    save_model,
    save_progress,
)
from pipeline.sft.packing import IGNORED, PackedRows, pack, tokenize
from pipeline.stage import StageRun, run_stage
from pipeline.tracking.progress import Progress
from pipeline.tracking.values import strict


def main(run: StageRun) -> dict:
    import torch.distributed as dist
    from transformers import AutoModelForCausalLM

    settings, sft = run.settings, run.settings.sft
    with heartbeat.phase(heartbeat.JOIN):
        connect(settings.cluster.collective_minutes)
    if sft.batch_size % run.world_size:
        raise UsageError(
            f"sft.batch_size={sft.batch_size} rows cannot be shared evenly by {run.world_size} ranks. Give a multiple of that"
        )
    base = hf.base_folder(run)
    dist.barrier()
    words = run.root / "preprocess" / "tokenizer"
    tokenizer = load_tokenizer(words)
    hf.check_vocabulary(base, tokenizer)
    accumulation = accumulation_steps(sft.batch_size // run.world_size, sft.micro_batch_size)
    bf16 = settings.model.dtype == "bf16"
    config = engine_config(sft, accumulation, bf16)
    dtype = torch.bfloat16 if bf16 else torch.float32
    if sft.zero_stage == 3:
        model = load_partitioned(base, config, dtype)
    else:
        model = AutoModelForCausalLM.from_pretrained(str(base), attn_implementation="sdpa", dtype=dtype)
    engine = build_engine(trainable(model, sft), sft, config)
    checkpoints, metrics = run.folder() / "checkpoints", run.folder() / "metrics.jsonl"
    done = load_progress(engine, checkpoints)
    if done:
        run.log(f"continuing after step {done} of {sum(phase.steps for phase in sft.phases)}")
    if run.is_main:
        write_jsonl(metrics, [row for row in read_jsonl(metrics) if row["step"] <= done] if metrics.exists() else [])

    def finish(folder: Path) -> None:
        hf.copy_tokenizer(words, folder)
        readable(folder)

    total, in_a_row = sum(phase.steps for phase in sft.phases), 0
    with Progress(total, "sft", "steps", done=done, enabled=run.is_main) as progress:
        for step, lr, batch in batches(run, tokenizer, done):
            heartbeat.step(step)
            with heartbeat.phase("update"):
                loss, skipped = train_step(engine, batch, lr, run, accumulation)
            in_a_row = in_a_row + 1 if skipped else 0
            if run.is_main:
                row = {"step": step, "sft/loss": loss, "sft/lr": lr, "sft/skipped": float(skipped)}
                append_jsonl(metrics, [strict(row)])
            if in_a_row == sft.max_skipped:
                raise DivergenceError(
                    f"Step {step}: {in_a_row} optimizer steps in a row were skipped (sft.max_skipped), because loss or "
                    f"gradient is not finite; the last loss is {loss}. The weights are those of the last step that was not "
                    "skipped, and earlier checkpoints are untouched. Lower sft.phases.*.lr, or check the warm-up rows."
                )
            if in_a_row == 1:
                run.log(f"WARNING: step {step} is skipped: its loss is {loss}, or its gradient is not finite")
            progress.advance(loss=loss)
            stopping = run.should_stop(last=step == total)
            if stopping or (step % sft.save_every == 0 and step < total):
                with heartbeat.phase("save"):
                    save_progress(engine, checkpoints, step)
            if stopping:
                run.log(f"stopped after step {step}; the same command continues from there")
                return {"step": step}
    model.config.use_cache = True  # off above for training alone
    with heartbeat.phase("save"):
        save_model(engine, run.folder() / "hf", finish)
    return {"step": total, "base": str(base)}


def batches(run: StageRun, tokenizer, done: int) -> Iterator[tuple[int, float, PackedRows]]:
    """(step, learning rate, the whole batch of all ranks) of every step after `done`."""
    sft = run.settings.sft
    step = 0
    for number, phase in enumerate(sft.phases):
        if step + phase.steps <= done:
            step += phase.steps
            continue
        packed = packed_rows(run, tokenizer, phase.rows)
        order, taken = torch.empty(0, dtype=torch.int64), 0
        generator = torch.Generator().manual_seed(run.settings.seed * 1_000_003 + number)
        for i in range(phase.steps):
            while len(order) - taken < sft.batch_size:
                order, taken = torch.cat([order[taken:], torch.randperm(len(packed), generator=generator)]), 0
            rows, taken = order[taken : taken + sft.batch_size], taken + sft.batch_size
            step += 1
            if step > done:
                yield step, phase.lr * min(1.0, (i + 1) / max(1, sft.warmup_steps)), packed.pick(rows)


def packed_rows(run: StageRun, tokenizer, name: str) -> PackedRows:
    """The packed examples of one warm-up file. Raises InputError if there are none, or if none fits."""
    file = run.root / "preprocess" / f"{name}.jsonl"
    length = run.settings.sft.sequence_length
    examples, dropped = tokenize(list(read_jsonl(file)), run.settings.data, tokenizer, length)
    if not examples:
        raise InputError(
            f"{file} has no warm-up row of at most sft.sequence_length={length} tokens ({dropped} are longer). Raise it, give "
            "data.sft_path files with solutions, or skip the warm-up with sft.enabled=false"
        )
    if dropped:
        run.log(f"{name}: {dropped} of {dropped + len(examples)} rows are longer than {length} tokens and are left out")
    return pack(examples, length, tokenizer.pad_token_id)


class LossHead(torch.nn.Module):
    """The model's output layer with the loss in it: logits are made a tile at a time, by the policy head, and never held.

    What transformers calls `logits` of such a model is the summed loss of the rows whose `labels` were set before the call.
    """

    def __init__(self, output: torch.nn.Linear):
        super().__init__()
        self.weight = output.weight
        self.labels: torch.Tensor | None = None
        """[rows, length], IGNORED where nothing is learned."""

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        assert self.labels is not None
        targets = torch.nn.functional.pad(self.labels[:, 1:], (0, 1), value=IGNORED).reshape(-1)
        learned = (targets != IGNORED).nonzero()[:, 0]
        logp, _ = token_logprobs(
            hidden.reshape(len(targets), -1), self.weight, targets.clamp(min=0), index=learned, need_entropy=False
        )
        return -logp.sum()


def trainable(model: Any, sft: Sft) -> Any:
    """`model` of transformers, changed in place for training: with the loss in its head, and without a cache and dropout.

    transformers loads models for evaluation, and such a model recomputes nothing.
    """
    model.lm_head = LossHead(model.lm_head)
    model.config.use_cache = False
    if sft.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.0  # the actor has none
    return model.train()


def train_step(engine, batch: PackedRows, lr: float, run: StageRun, accumulation: int) -> tuple[float, bool]:
    """One optimizer step on this rank's share of `batch`. Returns the batch's mean token loss over all ranks, and whether the
    step was skipped on all of them because the gradient is not finite."""
    import torch.distributed as dist

    for group in engine.optimizer.param_groups:
        group["lr"] = lr
    learned = int((batch.labels[:, 1:] != IGNORED).sum())
    total = torch.zeros((), device=engine.device)  # NCCL sums no tensor of the host
    shares = torch.arange(run.rank, len(batch), run.world_size).tensor_split(accumulation)
    for share in shares:
        rows = batch.pick(share)
        engine.module.lm_head.labels = rows.labels.to(engine.device)
        loss = engine(
            input_ids=rows.tokens.to(engine.device),
            attention_mask=rows.attention_mask(next(engine.module.parameters()).dtype).to(engine.device),
            position_ids=rows.positions.to(engine.device),
        ).logits
        # DeepSpeed averages over ranks and accumulated micro-batches; the mean wanted is over the whole batch's tokens.
        engine.backward(loss * (run.world_size * accumulation / learned))
        engine.step()
        total += loss.detach() / learned
    dist.all_reduce(total)
    return float(total), is_skipped(engine)


if __name__ == "__main__":
    run_stage(main)
