"""Rollouts as a few arrays, for their way between ranks: as objects, pickling would cost more than sampling."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.rollout.interface import Prompt, Rollout

Key = tuple[int, int]
"""Prompt index, sample index."""


def pack(rollouts: dict[Key, Rollout]) -> dict[str, Any]:
    """Numbers end to end, and the texts."""
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
    rows = zip(packed["keys"].tolist(), packed["lengths"].tolist(), packed["stopped"], packed["texts"], strict=True)
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
