"""DeepSpeed's engine, configured: ZeRO at any stage, on GPUs or over gloo."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from pipeline.common.errors import DivergenceError, InputError
from pipeline.common.files import clear_temporary, naming, whole_folder, write_text
from pipeline.settings import Sft


def connect(timeout_minutes: float) -> None:
    """Joins the launcher's world through DeepSpeed, and keeps libraries from printing to the user."""
    import warnings
    from datetime import timedelta

    from transformers.utils import logging

    logging.disable_progress_bar()  # of reading and writing shards
    # DeepSpeed 0.19 calls collectives by the names that torch 2.13 deprecates.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")

    if not torch.cuda.is_available():
        os.environ["DS_ACCELERATOR"] = "cpu"
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("MASTER_PORT", "29511")
    import deepspeed

    # Its shared-memory collective would be compiled at first use, one to two minutes; gloo does without it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(backend, timeout=timedelta(minutes=timeout_minutes), verbose=False)


def accumulation_steps(rows: int, micro_batch_size: int) -> int:
    """Micro-batches of one optimizer step on a rank: as few as keep each of them within `micro_batch_size` rows."""
    return -(-rows // micro_batch_size)


def engine_config(sft: Sft, accumulation: int, bf16: bool) -> dict[str, Any]:
    """DeepSpeed's configuration."""
    return {
        "train_micro_batch_size_per_gpu": sft.micro_batch_size,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": sft.clip_grad,
        "zero_optimization": {"stage": sft.zero_stage},
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": bf16},
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
    }


class FiniteAdamW(torch.optim.AdamW):
    """AdamW that leaves out a step whose gradient is not finite. ZeRO does so itself; without it (stage 0) all ranks hold the
    same gradients, and decide alike."""

    overflow = False
    """DeepSpeed's name for: the last step was left out."""

    def step(self, closure: Any = None) -> Any:
        held = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        self.overflow = not all(bool(torch.isfinite(grad).all()) for grad in held)
        return None if self.overflow else super().step(closure)


def build_engine(model: torch.nn.Module, sft: Sft, config: dict[str, Any]) -> Any:
    """The engine around `model`, with torch's AdamW (DeepSpeed's own would be compiled first)."""
    import deepspeed

    parameters = list(model.parameters())
    is_matrix = [
        len(getattr(p, "ds_shape", p.shape)) > 1 for p in parameters
    ]  # ZeRO 3 leaves an empty tensor in its place
    matrices = [p for p, matrix in zip(parameters, is_matrix, strict=True) if matrix]
    vectors = [p for p, matrix in zip(parameters, is_matrix, strict=True) if not matrix]
    groups = [{"params": matrices, "weight_decay": sft.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    adam = torch.optim.AdamW if sft.zero_stage else FiniteAdamW
    optimizer = adam([group for group in groups if group["params"]], lr=1e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
    return engine


def is_skipped(engine: Any) -> bool:
    """Whether the last optimizer step was left out, on all ranks, because the gradient was not finite."""
    return bool(getattr(engine.optimizer, "overflow", False))


def refuse_nonfinite(engine: Any, what: str) -> None:
    """Raises DivergenceError on every rank if a weight of any rank is not finite (a collective)."""
    import torch.distributed as dist

    own = ((name, getattr(p, "ds_tensor", p)) for name, p in engine.module.named_parameters())
    mine = next((name for name, held in own if not bool(torch.isfinite(held).all())), None)
    names: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(names, mine)
    found = next((name for name in names if name), None)
    if found is not None:
        raise DivergenceError(
            f"{what} is not saved: {found} holds NaN or infinity. Earlier checkpoints are untouched. Lower sft.phases.*.lr."
        )


def save_progress(engine: Any, folder: Path, step: int) -> None:
    """Saves what the warm-up continues from (a collective). Only when it is whole does `latest` name it and its
    predecessor go, so that a kill or a full disk at any moment leaves one that can be continued."""
    import torch.distributed as dist

    refuse_nonfinite(engine, f"The checkpoint of step {step}")
    tag = f"step_{step:07d}"
    try:
        with naming(folder / tag):
            engine.save_checkpoint(str(folder), tag=tag, client_state={"step": step}, save_latest=False)
    except Exception:
        shutil.rmtree(folder / tag, ignore_errors=True)
        raise
    dist.barrier()
    if dist.get_rank() == 0:
        write_text(folder / "latest", tag)
        for old in folder.iterdir():
            if old.is_dir() and old.name != tag:
                shutil.rmtree(old, ignore_errors=True)


def load_progress(engine: Any, folder: Path) -> int:
    """Continue from the checkpoint of `save_progress`; return its step, 0 without one. Raises InputError if it is damaged,
    or was made by another number of ranks, over which ZeRO had cut the optimizer."""
    import torch.distributed as dist

    latest = folder / "latest"
    if dist.get_rank() == 0:
        clear_temporary(folder)
    if not latest.exists():
        return 0
    error: Exception | None = None
    try:
        _, client = engine.load_checkpoint(str(folder))
        if client is not None:
            return int(client["step"])
    except Exception as caught:
        error = caught
    why = str(error).strip().partition("\n")[0].partition(". ")[0] if error else "files are missing"
    raise InputError(
        f"{folder / latest.read_text().strip()} cannot be continued ({why}). Delete {folder} to start the warm-up again, or "
        "use as many devices as it was made with"
    ) from error


def whole_state(engine: Any) -> dict[str, torch.Tensor]:
    """All weights on the CPU of rank 0, gathered one by one under ZeRO 3 (a collective); {} on other ranks."""
    import deepspeed
    import torch.distributed as dist

    sharded = engine.zero_optimization_stage() == 3
    state = {}
    for name, parameter in engine.module.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], enabled=sharded):
            if dist.get_rank() == 0:
                state[name] = parameter.detach().cpu().clone()
    return state


def save_model(engine: Any, folder: Path, finish: Any) -> None:
    """Writes the model as a Hugging Face folder that appears whole or not at all; `finish(folder)` adds the tokenizer."""
    import torch.distributed as dist

    refuse_nonfinite(engine, str(folder))
    state = whole_state(engine)
    if dist.get_rank() == 0:
        with whole_folder(folder) as temporary:
            engine.module.save_pretrained(str(temporary), state_dict=state)
            finish(temporary)
    dist.barrier()
