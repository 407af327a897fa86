"""Offline rollouts on disk: shards that are there whole or not at all, and the plan that they belong to.

    rollout/plan.json             what the shards were made with; shards of another plan are set aside
    rollout/shards/00000.jsonl    one line a sample, prompts in order, samples in order
    rollout/pass_rates.jsonl      {"id", "pass_rate", "n"}, one line a prompt, written when all shards are there

Which samples a shard holds depends on its number and the plan alone, so a killed run goes on with the missing shards
and ends with the same bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.artifacts import read_json, read_jsonl, write_json, write_jsonl
from pipeline.rollout.interface import Prompt, Rollout

DIGITS = 6
"""Decimals of a log-prob in a shard: finer than any use of it, coarser than fp32's noise."""


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Hash of ids, tokens and golds: another order or another tokenizer is another plan."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.id, prompt.token_ids, prompt.gold]).encode())
    return digest.hexdigest()


class ShardFolder:
    """The shards of `prompts` in `folder` (`runs/<name>/rollout`), `shard_prompts` prompts each."""

    def __init__(self, folder: Path, prompts: Sequence[Prompt], shard_prompts: int):
        self.folder, self.prompts, self.shard_prompts = folder, prompts, shard_prompts
        self.count = -(-len(prompts) // shard_prompts)

    def open(self, plan: dict[str, Any]) -> Path | None:
        """Begin or continue `plan`. Shards of another plan that lie there are moved aside; returns where to. On one
        process."""
        path, plan = self.folder / "plan.json", json.loads(json.dumps(plan))
        if path.exists() and read_json(path) == plan:
            return None
        aside = self._set_aside()
        write_json(path, plan)
        return aside

    def path(self, shard: int) -> Path:
        return self.folder / "shards" / f"{shard:05d}.jsonl"

    def missing(self) -> list[int]:
        """Shards still to be made, in order."""
        return [shard for shard in range(self.count) if not self.path(shard).exists()]

    def waves(self, width: int) -> list[list[int]]:
        """Shards that are generated together, `width` at a time; waves that are all there are left out, the others are
        whole."""
        missing = set(self.missing())
        waves = [list(range(first, min(first + width, self.count))) for first in range(0, self.count, width)]
        return [wave for wave in waves if missing.intersection(wave)]

    def members(self, shard: int) -> Sequence[Prompt]:
        """The prompts of a shard."""
        return self.prompts[shard * self.shard_prompts : (shard + 1) * self.shard_prompts]

    def write(self, shard: int, rows: Iterable[dict[str, Any]]) -> None:
        """The whole shard, atomically. A shard that is there already stays as it is."""
        if not self.path(shard).exists():
            write_jsonl(self.path(shard), rows)

    def finish(self) -> list[dict[str, Any]]:
        """Write and return the pass rates of all prompts, in their order, from the shards on disk."""
        right: dict[str, list[bool]] = {prompt.id: [] for prompt in self.prompts}
        for shard in range(self.count):
            for row in read_jsonl(self.path(shard)):
                right[row["id"]].append(row["correct"])
        rates = [{"id": id, "pass_rate": sum(graded) / len(graded), "n": len(graded)} for id, graded in right.items()]
        write_jsonl(self.folder / "pass_rates.jsonl", rates)
        return rates

    def _set_aside(self) -> Path | None:
        shards = self.folder / "shards"
        (self.folder / "pass_rates.jsonl").unlink(missing_ok=True)
        if not shards.exists() or not any(shards.iterdir()):
            return None
        number = 1
        while (target := self.folder / f"shards.old-{number}").exists():
            number += 1
        return shards.rename(target)


def sample_row(rollout: Rollout, *, reward: float, correct: bool, extracted: str | None) -> dict[str, Any]:
    """One line of a shard."""
    return {
        "id": rollout.prompt.id,
        "sample": rollout.sample,
        "problem": rollout.prompt.text,
        "gold": rollout.prompt.gold,
        "response": rollout.text,
        "reward": reward,
        "correct": correct,
        "extracted": extracted,
        "finish_reason": rollout.finish_reason,
        "policy_version": rollout.policy_version,
        "token_ids": rollout.token_ids,
        "logps": [round(x, DIGITS) for x in rollout.logps],
    }
