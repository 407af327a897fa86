"""Offline rollouts on disk: shards that are complete or absent, and the plan that they belong to.

    rollout/plan.json             what the shards were made with; shards of another plan are moved aside
    rollout/shards/00000.jsonl    one line a sample, prompts in order, samples in order
    rollout/damaged/00000.jsonl   shards found truncated, as after a disk failure; they are generated again
    rollout/pass_rates.jsonl      {"id", "pass_rate", "n"}, one line a prompt, written when all shards are there

Which samples a shard holds depends on its number and the plan alone, so a killed run continues with the missing shards
and ends with the same bytes.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError
from pipeline.common.files import read_json, read_jsonl, write_json, write_jsonl
from pipeline.rollout.interface import Prompt, Rollout

DIGITS = 6
"""Decimals of a log-prob in a shard: finer than any use of it, coarser than fp32's noise."""


def prompts_digest(prompts: Sequence[Prompt]) -> str:
    """Hash of ids, tokens and golds: it changes with the order and with the tokenizer."""
    digest = hashlib.sha256()
    for prompt in prompts:
        digest.update(json.dumps([prompt.id, prompt.token_ids, prompt.gold]).encode())
    return digest.hexdigest()


class ShardFolder:
    """The shards of `prompts` in `folder` (`runs/<name>/rollout`): `shard_prompts` prompts each, `group_size` samples of
    every prompt."""

    def __init__(self, folder: Path, prompts: Sequence[Prompt], shard_prompts: int, group_size: int):
        self.folder, self.prompts = folder, prompts
        self.shard_prompts, self.group_size = shard_prompts, group_size
        self.count = -(-len(prompts) // shard_prompts)

    def open(self, plan: dict[str, Any]) -> list[str]:
        """Begins or continues `plan`: shards of another plan, and shards that are not whole, are moved aside and
        generated again. Returns a sentence on each such move. Call it on one process.
        """
        path, plan = self.folder / "plan.json", json.loads(json.dumps(plan))
        try:
            old = read_json(path)
        except InputError:  # missing or damaged: the plan of the shards is unknown
            old = None
        if old == plan:
            return self._repair()
        aside = self._set_aside()
        write_json(path, plan)
        if aside is None:
            return []
        known = old if isinstance(old, dict) else {}
        changed = [name for name in sorted({*known, *plan}) if known.get(name) != plan.get(name)]
        how = f"with another {' and '.join(changed)}" if known else f"with an unknown plan ({path} cannot be read)"
        return [f"the existing shards were made {how}; moved aside to {aside}"]

    def path(self, shard: int) -> Path:
        return self.folder / "shards" / f"{shard:05d}.jsonl"

    def missing(self) -> list[int]:
        """Shards still to be made, in order."""
        return [shard for shard in range(self.count) if not self.path(shard).exists()]

    def waves(self, width: int) -> list[list[int]]:
        """Shards that are generated together, `width` at a time; complete waves are skipped, the others are
        generated whole."""
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
        """Writes and returns the pass rates of all prompts, in their order, from the shards on disk.

        Raises:
            InputError: a shard does not hold exactly its samples.
        """
        rates: list[dict[str, Any]] = []
        for shard in range(self.count):
            rows = list(read_jsonl(self.path(shard)))
            expected = [(prompt.id, k) for prompt in self.members(shard) for k in range(self.group_size)]
            if [(row.get("id"), row.get("sample")) for row in rows] != expected:
                raise InputError(
                    f"{self.path(shard)} does not hold {self.group_size} samples of each of its prompts. Delete it; the "
                    "same command makes it again."
                )
            for first in range(0, len(rows), self.group_size):
                group = rows[first : first + self.group_size]
                right = sum(row["correct"] for row in group)
                rates.append({"id": group[0]["id"], "pass_rate": right / len(group), "n": len(group)})
        write_jsonl(self.folder / "pass_rates.jsonl", rates)
        return rates

    def _repair(self) -> list[str]:
        """Moves shards aside that lack lines. The stage never leaves such shards; a disk that loses confirmed writes may."""
        sentences = []
        for shard in range(self.count):
            path = self.path(shard)
            if not path.exists() or _whole_lines(path) == len(self.members(shard)) * self.group_size:
                continue
            target = self.folder / "damaged" / path.name
            target.parent.mkdir(exist_ok=True)
            path.replace(target)
            sentences.append(f"{path} is incomplete; moved to {target} and generated again")
        return sentences

    def _set_aside(self) -> Path | None:
        shards = self.folder / "shards"
        (self.folder / "pass_rates.jsonl").unlink(missing_ok=True)
        if not shards.exists() or not any(shards.iterdir()):
            return None
        number = 1
        while (target := self.folder / f"shards.old-{number}").exists():
            number += 1
        return shards.rename(target)


def _whole_lines(path: Path) -> int:
    """Lines of the file, or -1 if the last one is cut off."""
    lines, last = 0, b""
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines if last == b"\n" else -1


def sample_row(rollout: Rollout, *, reward: float, correct: bool, extracted: str | None, layer: str) -> dict[str, Any]:
    """One line of a shard; `layer` is the verifier's, which decided."""
    return {
        "id": rollout.prompt.id,
        "sample": rollout.sample,
        "problem": rollout.prompt.text,
        "gold": rollout.prompt.gold,
        "response": rollout.text,
        "reward": reward,
        "correct": correct,
        "extracted": extracted,
        "layer": layer,
        "finish_reason": rollout.finish_reason,
        "policy_version": rollout.policy_version,
        "token_ids": rollout.token_ids,
        "logps": [round(x, DIGITS) for x in rollout.logps],
    }
