"""Rollouts packed into a few arrays, for sending between ranks and for checkpoints.

Pickled as objects, they would cost more time than sampling them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from pipeline.common.errors import InputError
from pipeline.rollout.interface import Groups, Prompt, Rollout

Key = tuple[int, int]
"""Prompt index, sample index."""


def pack(rollouts: dict[Key, Rollout]) -> dict[str, Any]:
    """All numbers in one array for each kind, and the texts in a list."""
    made = list(rollouts.values())
    return {
        "keys": np.array(list(rollouts), dtype=np.int64).reshape(-1, 2),
        "lengths": np.array([len(r.token_ids) for r in made], dtype=np.int64),
        "tokens": np.array([t for r in made for t in r.token_ids], dtype=np.int32),
        "logps": np.array([x for r in made for x in r.logps], dtype=np.float32),
        "raw_logps": np.array([x for r in made for x in r.raw_logps], dtype=np.float32),
        "stopped": np.array([r.finish_reason == "stop" for r in made], dtype=bool),
        "texts": [r.text for r in made],
    }


def unpack(packed: dict[str, Any], prompts: list[Prompt], policy_version: int) -> Iterator[tuple[Key, Rollout]]:
    """Inverse of `pack`."""
    tokens, logps, raw_logps = (packed[name].tolist() for name in ("tokens", "logps", "raw_logps"))
    first = 0
    rows = zip(
        packed["keys"].tolist(), packed["lengths"].tolist(), packed["stopped"].tolist(), packed["texts"], strict=True
    )
    for (prompt, sample), length, stopped, text in rows:
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
                finish_reason="stop" if stopped else "length",
                policy_version=policy_version,
                text=text,
            ),
        )


def pack_groups(groups: Groups) -> dict[str, Any]:
    """A whole batch of equally large groups, prompts by their ids. Only tensors, lists and numbers, because
    `torch.load` unpickles nothing else."""
    rollouts = {(i, rollout.sample): rollout for i, group in enumerate(groups) for rollout in group}
    return {
        "ids": [group[0].prompt.id for group in groups],
        "policy_version": groups[0][0].policy_version,
        "rollouts": {
            name: torch.from_numpy(part) if isinstance(part, np.ndarray) else part
            for name, part in pack(rollouts).items()
        },
    }


def unpack_groups(packed: dict[str, Any], prompts: dict[str, Prompt]) -> Groups:
    """Inverse of `pack_groups`; `prompts` by id. Raises InputError where one of the batch's prompts is not among them."""
    missing = [id for id in packed["ids"] if id not in prompts]
    if missing:
        raise InputError(
            f"the checkpoint's next batch holds prompt {missing[0]!r}, which is no longer among the training prompts. "
            "Restore the preprocess stage's output, or start another run with another name="
        )
    groups: Groups = [[] for _ in packed["ids"]]
    members = [prompts[id] for id in packed["ids"]]
    for (i, _), rollout in unpack(packed["rollouts"], members, packed["policy_version"]):
        groups[i].append(rollout)
    return groups
