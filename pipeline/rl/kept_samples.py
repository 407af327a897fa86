"""Whole batches of the newest steps, kept so that `stage=replay` can make a step's update again.

`samples/step_0000812.pt` holds what the update of step 812 learned from: token ids, log-probs, rewards and verdicts, as
tensors, lists and numbers, because `torch.load` reads nothing else without running code. It is written before the update, so
that a step that fails can be replayed as well.
"""

import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.common.errors import InputError
from pipeline.common.files import clear_temporary, write_bytes
from pipeline.rl.collector import StepBatch
from pipeline.rl.grading import Graded
from pipeline.rollout.interface import Prompt
from pipeline.rollout.packing import pack_groups, unpack_groups

FOLDER = "samples"
"""In the run's folder, beside samples.jsonl."""


@dataclass(frozen=True)
class KeptStep:
    """What is kept of one step."""

    batch: StepBatch
    """Without the verifier's reasons: `graded.grades` is empty."""
    settings: dict[str, Any]
    """The settings of the run that a checkpoint belongs to, flat."""
    sampled_elsewhere: bool
    """Another engine or older weights had sampled it (`Objective.of`)."""


def keep(root: Path, step: int, kept: KeptStep, newest: int) -> None:
    """Writes one step's batch under the run's folder `root`, and deletes all but the `newest` newest steps."""
    batch, prompts = kept.batch, [group[0].prompt for group in kept.batch.groups]
    record = {
        "groups": pack_groups(batch.groups),
        "prompts": [(prompt.id, prompt.gold, prompt.text, torch.tensor(prompt.token_ids)) for prompt in prompts],
        "rewards": batch.graded.rewards,
        "correct": batch.graded.correct,
        "settings": kept.settings,
        "sampled_elsewhere": kept.sampled_elsewhere,
    }
    buffer = io.BytesIO()
    torch.save(record, buffer)
    clear_temporary(root / FOLDER)
    write_bytes(_path(root, step), [buffer.getvalue()])
    for old in kept_steps(root)[:-newest]:
        _path(root, old).unlink(missing_ok=True)


def forget_after(root: Path, step: int) -> None:
    """Deletes what an earlier process kept of steps after `step`, which are made again."""
    for later in kept_steps(root):
        if later > step:
            _path(root, later).unlink(missing_ok=True)


def kept_steps(root: Path) -> list[int]:
    """The steps that are kept, oldest first."""
    found = (re.fullmatch(r"step_(\d{7,})\.pt", path.name, re.ASCII) for path in (root / FOLDER).glob("step_*.pt"))
    return sorted(int(match[1]) for match in found if match)


def read(root: Path, step: int) -> KeptStep:
    """The batch of `step`. Raises InputError if the file cannot be read."""
    path = _path(root, step)
    try:
        record = torch.load(path, weights_only=True)
        prompts = {
            id: Prompt(id=id, token_ids=tokens.tolist(), gold=gold, text=text)
            for id, gold, text, tokens in record["prompts"]
        }
        groups = unpack_groups(record["groups"], prompts)
        graded = Graded([], record["rewards"], record["correct"])
        return KeptStep(StepBatch(groups, graded), record["settings"], record["sampled_elsewhere"])
    except Exception as error:  # a damaged archive raises anything
        raise InputError(f"{path} cannot be read ({type(error).__name__}). Replay another step.") from error


def replayable(kept: Iterable[int], checkpoints: Iterable[int]) -> dict[int, int]:
    """Each step that can be replayed -> the newest checkpoint before it from which all steps up to it are kept."""
    starts, found = set(checkpoints), dict[int, int]()
    for step in sorted(kept):
        if step - 1 in starts:
            found[step] = step - 1
        elif step - 1 in found:
            found[step] = found[step - 1]
    return found


def _path(root: Path, step: int) -> Path:
    return root / FOLDER / f"step_{step:07d}.pt"
