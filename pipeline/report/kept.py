"""The rollouts that a run kept: some of each training step in samples.jsonl, and those of stage=rollout in its shards."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError
from pipeline.common.files import read_jsonl
from pipeline.report.read import Row, RunData


def kept_rollouts(root: Path, data: RunData, most: int) -> list[Row]:
    """At most `most` kept rollouts, spread evenly over the run. Each row has the texts `text`, `problem`, `gold` and `place`,
    and what else the run wrote of it. A shard that cannot be read is noted in `data.missing`."""
    rows = [*_trained_on(data.samples)]
    try:
        rows += _offline(root / "rollout" / "shards", most)
    except InputError as error:
        data.missing.append(f"offline rollouts in the audit: {error}")
    return _evenly(
        [row for row in rows if all(isinstance(row[name], str) for name in ("text", "problem", "gold"))], most
    )


def _trained_on(samples: list[Row]) -> Iterator[Row]:
    for row in samples:
        shared = {"problem": row.get("problem"), "gold": row.get("gold"), "place": f"step {row.get('step')}"}
        responses = row.get("responses")
        for response in responses if isinstance(responses, list) else []:
            if isinstance(response, dict):
                yield {"text": None, **response, **shared}


def _offline(folder: Path, most: int) -> Iterator[Row]:
    """The rows of as many shards as hold `most`, spread over all of them: they can be gigabytes in all."""
    shards = sorted(folder.glob("*.jsonl"))
    each = sum(1 for _ in read_jsonl(shards[0])) if shards else 0
    for shard in _evenly(shards, -(-most // max(1, each))):
        for row in read_jsonl(shard):
            yield {
                **row, "text": row.get("response"), "problem": row.get("problem"), "gold": row.get("gold"),
                "place": "offline",
            }  # fmt: skip


def _evenly(items: list[Any], most: int) -> list[Any]:
    count = min(most, len(items))
    return [items[i * len(items) // count] for i in range(count)]
