"""What every Megatron stage does first: join the world, and learn the actual model from the run's converted base."""

import json
import shutil
from pathlib import Path

import torch

from megatron_patches import parallel
from megatron_patches.model import checkpoint
from pipeline.common import heartbeat
from pipeline.common.errors import InputError
from pipeline.settings import Settings
from pipeline.stage import StageRun

SOURCE = "hf"
"""Folder beside the base checkpoint with the model's config and tokenizer files (no weights)."""


def start(run: StageRun) -> Settings:
    """Joins the process groups of `run.settings.layout`; returns the settings with the converted model's vocabulary size.

    The tiny preset's vocabulary is its trained tokenizer's, known only after preprocess. Raises InputError where the
    convert stage has not run.
    """
    config = source_folder(run) / "config.json"
    if not config.exists():
        raise InputError(f"{config.parent.parent} holds no converted model. Make it: {run.command('convert')}")
    join(run)
    return with_vocabulary(run.settings, config)


def join(run: StageRun) -> None:
    """Only the process groups."""
    settings = run.settings
    torch.manual_seed(settings.seed)
    with heartbeat.phase(heartbeat.JOIN):
        parallel.initialize(settings.layout, settings.seed, settings.cluster.collective_minutes)


def with_vocabulary(settings: Settings, config: Path) -> Settings:
    """`settings` with `model.vocab_size` as `config` (a Hugging Face config.json) states it."""
    size = int(json.loads(config.read_text())["vocab_size"])
    return settings.model_copy(update={"model": settings.model.model_copy(update={"vocab_size": size})})


def source_folder(run: StageRun) -> Path:
    return run.root / "convert" / SOURCE


def keep_source(run: StageRun, folder: Path) -> None:
    """Copies config and tokenizer files of the Hugging Face `folder` beside the base checkpoint."""
    target = source_folder(run)
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in folder.iterdir():
        if file.is_file() and file.suffix not in (".safetensors", ".bin") and not file.name.endswith(".index.json"):
            shutil.copyfile(file, target / file.name)


def checkpoint_folder(run: StageRun, name: str) -> Path:
    """The checkpoint that `name` means: a folder that is one itself, otherwise as `checkpoint_of` finds it."""
    if (Path(name) / "metadata.json").is_file():
        return Path(name)
    root, iteration = checkpoint_of(run, name)
    return checkpoint.iteration_folder(root, iteration)


def checkpoint_of(run: StageRun, which: str) -> tuple[Path, int]:
    """Folder and iteration of `before` (the converted base), `after` (the newest of RL), or a folder of the user's.

    Raises InputError naming the command that makes what is missing.
    """
    places = {"before": (run.root / "convert", "convert"), "after": (run.root / "checkpoints", "rl")}
    root, stage = places.get(which, (Path(which), ""))
    iteration = checkpoint.latest_iteration(root) if root.is_dir() else None
    if iteration is None:
        remedy = (
            f"make it: {run.command(stage)}" if stage else "name a folder that holds latest_checkpointed_iteration.txt"
        )
        raise InputError(f"{root} holds no Megatron checkpoint; {remedy}")
    return root, iteration
