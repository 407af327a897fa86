"""Rewards of a step's rollouts: every rank grades a share in its own worker processes, and then all share the
grades."""

import hashlib
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from pipeline.common.waiting import result_of
from pipeline.rollout.interface import Groups, Rollout
from pipeline.settings import Verify
from pipeline.verify import Grade, VerifierPool
from pipeline.verify.judge import Judge, judge_of
from pipeline.verify.reading.extract import graded_part
from pipeline.verify.rewards import EXCERPT, RewardError, Scorer


@dataclass(frozen=True)
class Graded:
    """Grades of groups of rollouts."""

    grades: list[list[Grade]]
    """[prompts][group]."""
    rewards: torch.Tensor
    """fp64 [prompts, group]: the weighted sum of the configured reward functions."""
    correct: torch.Tensor
    """fp64 [prompts, group]: 1 if the answer is right, else 0."""


class Grader:
    """Grades rollouts in a verifier pool on every rank; the ranks of a node split its workers. A context manager."""

    def __init__(self, verify: Verify, max_new_tokens: int):
        """`max_new_tokens` is the longest response in tokens, for the `overlong` reward. Raises UsageError for an
        unknown reward and for a judge that cannot be asked."""
        self.score = Scorer(verify, max_new_tokens)
        self.judge = judge_of(verify)
        self.pool = VerifierPool.from_settings(verify)
        self._early: dict[bytes, Future[list[Grade]]] = {}
        self._reported: Counter[str] = Counter()
        self._totals: Counter[str] = Counter()

    def __enter__(self) -> "Grader":
        return self

    def __exit__(self, *_: Any) -> None:
        self.pool.close()

    def early(self, rollout: Rollout) -> None:
        """Starts to grade a response on this rank while others are still sampled; `grade` collects the verdict."""
        key = _key(rollout)
        if key not in self._early:
            self._early[key] = self.pool.submit([_pair(rollout)])

    def grade(self, groups: Groups) -> Graded:
        """Grades groups of one size. A collective over the world, if there is one; every rank gets all grades. Raises
        RewardError for a reward that is not finite."""
        rollouts = [rollout for group in groups for rollout in group]
        keys = [_key(rollout) for rollout in rollouts]
        known = self._verdicts(dict(zip(keys, rollouts, strict=True)))
        if self.judge is not None:
            known |= self._overturned(self.judge, known, dict(zip(keys, rollouts, strict=True)))
        rank, size = _place()
        grades = [known[key] for key in keys]
        mine = [self._reward(*pair) for pair in zip(rollouts[rank::size], grades[rank::size], strict=True)]
        rewards = torch.zeros(len(rollouts), dtype=torch.float64)
        self._totals = Counter()
        for k, (some, totals) in enumerate(_share((mine, self._metrics()))):
            rewards[k::size] = torch.tensor(some, dtype=torch.float64)
            self._totals.update(totals)
        correct = torch.tensor([grade.correct for grade in grades], dtype=torch.float64)
        width = len(groups[0])
        table = [grades[i : i + width] for i in range(0, len(grades), width)]
        return Graded(table, rewards.view(-1, width), correct.view(-1, width))

    def equal(self, pairs: list[tuple[str, str]]) -> list[bool]:
        """Says of pairs of answers whether they are the same. A collective over the world, if there is one: the ranks split
        the pairs, and every rank gets all verdicts."""
        rank, size = _place()
        mine = self.pool.grade_many([(f"\\boxed{{{a}}}", b) for a, b in pairs[rank::size]])
        verdicts = [False] * len(pairs)
        for k, some in enumerate(_share([grade.correct for grade in mine])):
            verdicts[k::size] = some
        return verdicts

    def _verdicts(self, wanted: dict[bytes, Rollout]) -> dict[bytes, Grade]:
        """Returns the grade of every wanted response on every rank. Early ones are collected; the ranks split the
        rest."""
        # Other early gradings may belong to the batch that another thread samples ahead, so they stay.
        began = {key: future for key in wanted if (future := self._early.pop(key, None)) is not None}
        known: dict[bytes, Grade] = {}
        for part in _share({key: result_of(future)[0] for key, future in began.items()}):
            known |= part
        missing = [key for key in wanted if key not in known]
        if missing:  # the same list on every rank, so all of them exchange or none does
            rank, size = _place()
            mine = missing[rank::size]
            grades = self.pool.grade_many([_pair(wanted[key]) for key in mine])
            for part in _share(dict(zip(mine, grades, strict=True))):
                known |= part
        return known

    def _overturned(self, judge: Judge, known: dict[bytes, Grade], wanted: dict[bytes, Rollout]) -> dict[bytes, Grade]:
        """Returns the grades that the judge turns from wrong to right, on every rank; the ranks split the questions."""
        undecided = [key for key in wanted if judge.may_overturn(known[key])]  # the same list on every rank
        rank, size = _place()
        mine = undecided[rank::size]
        prompts = [wanted[key].prompt for key in mine]
        questions = [(p.text, known[key].extracted or "", p.gold) for key, p in zip(mine, prompts, strict=True)]
        right = [key for key, verdict in zip(mine, judge.review(questions), strict=True) if verdict]
        return {
            key: replace(known[key], correct=True, reason="judged equal", layer="judge")
            for part in _share(right)
            for key in part
        }

    def _reward(self, rollout: Rollout, grade: Grade) -> float:
        """The reward of one response. Raises RewardError that names the problem too."""
        try:
            return self.score(rollout.text, grade, len(rollout.token_ids), rollout.finish_reason)
        except RewardError as error:
            raise RewardError(f"{error} The problem: {rollout.prompt.text[-EXCERPT:]!r}") from None

    def _metrics(self) -> dict[str, float]:
        return self.pool.metrics() | (self.judge.metrics() if self.judge is not None else {})

    def metrics(self) -> dict[str, float]:
        """Returns the counts of all ranks' pools up to the last `grade`, since the last call; the same on every
        rank."""
        since = {name: float(total - self._reported[name]) for name, total in self._totals.items()}
        self._reported = Counter(self._totals)
        if self.judge is not None:
            since["judge_overturn_rate"] = since.get("judge_overturned", 0.0) / max(1.0, since.get("judge_asked", 0.0))
        return since


def graded_text(rollout: Rollout) -> str:
    """What the verifier reads of a rollout."""
    return graded_part(rollout.text, rollout.finish_reason)


def _pair(rollout: Rollout) -> tuple[str, str, str]:
    """What the verifier sees: the response, the gold, the problem."""
    return graded_text(rollout), rollout.prompt.gold, rollout.prompt.text


def _key(rollout: Rollout) -> bytes:
    """Hashes what is graded; equal ones are graded once."""
    digest = hashlib.blake2b(digest_size=16)
    for text in _pair(rollout):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.digest()


def _place() -> tuple[int, int]:
    """Returns rank and size of the world; (0, 1) without one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _share(mine: Any) -> list[Any]:
    """Gathers `mine` of every rank to every rank, in the order of ranks."""
    _, size = _place()
    shares: list[Any] = [mine] * size
    if size > 1:
        dist.all_gather_object(shares, mine)
    return shares
