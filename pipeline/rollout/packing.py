"""Rollouts packed into a few arrays, for sending between ranks and for checkpoints.

Pickled as objects, they would cost more time than sampling them."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from pipeline.common.errors import InputError
from pipeline.rollout.interface import Groups, Prompt, Rollout

Key = tuple[int, int]
"""Prompt index, sample index."""
ENDS = ("length", "stop", "unfinished")
"""The finish reasons; a packed one is its place in here."""


def pack(rollouts: dict[Key, Rollout]) -> dict[str, Any]:
    """All numbers in one array for each kind, and the texts in a list."""
    made = list(rollouts.values())
    return {
        "keys": np.array(list(rollouts), dtype=np.int64).reshape(-1, 2),
        "lengths": np.array([len(r.token_ids) for r in made], dtype=np.int64),
        "tokens": np.array([t for r in made for t in r.token_ids], dtype=np.int32),
        "logps": np.array([x for r in made for x in r.logps], dtype=np.float32),
        "raw_logps": np.array([x for r in made for x in r.raw_logps], dtype=np.float32),
        "ends": np.array([ENDS.index(r.finish_reason) for r in made], dtype=np.int8),
        "versions": np.array([r.policy_version for r in made], dtype=np.int64),
        "earlier": np.array([(i, *part) for i, r in enumerate(made) for part in r.earlier], dtype=np.int64).reshape(
            -1, 3
        ),
        "texts": [r.text for r in made],
    } | _pack_experts(made)


def _pack_experts(made: list[Rollout]) -> dict[str, np.ndarray]:
    recorded = [np.zeros((0, 0, 0), np.uint8) if r.experts is None else r.experts for r in made]
    if not any(map(len, recorded)):
        return {}
    return {
        "expert_shapes": np.array([part.shape for part in recorded], dtype=np.int64),
        "experts": np.concatenate([part.reshape(-1) for part in recorded]),
    }


def _unpack_experts(packed: dict[str, Any], count: int) -> Iterator[np.ndarray | None]:
    if "experts" not in packed:
        yield from [None] * count
        return
    flat, first = np.asarray(packed["experts"]), 0
    for shape in np.asarray(packed["expert_shapes"]).tolist():
        part = flat[first : first + math.prod(shape)]
        first += part.size
        yield part.reshape(shape).copy() if part.size else None


def unpack(packed: dict[str, Any], prompts: list[Prompt]) -> Iterator[tuple[Key, Rollout]]:
    """Inverse of `pack`."""
    earlier: dict[int, list[tuple[int, int]]] = {}
    for row, version, count in packed["earlier"].tolist():
        earlier.setdefault(row, []).append((version, count))
    tokens, logps, raw_logps = (packed[name].tolist() for name in ("tokens", "logps", "raw_logps"))
    first = 0
    names = ("keys", "lengths", "ends", "versions")
    rows = zip(*(packed[name].tolist() for name in names), packed["texts"], strict=True)
    experts = _unpack_experts(packed, len(packed["texts"]))
    for row, ((prompt, sample), length, end, version, text) in enumerate(rows):
        part = slice(first, first + length)
        first += length
        yield (
            (prompt, sample),
            Rollout(
                prompt=prompts[prompt],
                sample=sample,
                token_ids=tokens[part],
                logps=logps[part],
                raw_logps=raw_logps[part],
                finish_reason=ENDS[end],
                policy_version=version,
                text=text,
                earlier=earlier.get(row, []),
                experts=next(experts),
            ),
        )


def pack_groups(groups: Groups) -> dict[str, Any]:
    """A whole batch of equally large groups, prompts by their ids. Only tensors, lists and numbers, because
    `torch.load` unpickles nothing else."""
    rollouts = {(i, rollout.sample): rollout for i, group in enumerate(groups) for rollout in group}
    return {
        "ids": [group[0].prompt.id for group in groups],
        "occurrences": [group[0].prompt.occurrence for group in groups],
        "rollouts": {
            name: torch.from_numpy(part) if isinstance(part, np.ndarray) else part
            for name, part in pack(rollouts).items()
        },
    }


def unpack_groups(packed: dict[str, Any], prompts: dict[str, Prompt]) -> Groups:
    """Inverse of `pack_groups`; `prompts` by id. Raises InputError where one of the groups' prompts is not among them."""
    missing = [id for id in packed["ids"] if id not in prompts]
    if missing:
        raise InputError(
            f"the checkpoint holds responses to prompt {missing[0]!r}, which is no longer among the training prompts. "
            "Restore the preprocess stage's output, or start another run with another name="
        )
    groups: Groups = [[] for _ in packed["ids"]]
    numbers = zip(packed["ids"], packed["occurrences"], strict=True)
    members = [replace(prompts[id], occurrence=occurrence) for id, occurrence in numbers]
    for (i, _), rollout in unpack(packed["rollouts"], members):
        groups[i].append(rollout)
    return groups
