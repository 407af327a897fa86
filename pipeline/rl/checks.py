"""What to log of a step's rollouts."""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from pipeline.rl.collector import StepBatch
from pipeline.rl.experience import Samples, Signal
from pipeline.rl.grading import Grader, graded_text
from pipeline.verify.reading.given import how_given

LOOKED_AT = 512
"""Most right answers of a step of which `paid_metrics` reads how they were given: a large step would spend seconds on more."""
SAME_FORM = ("string", "number")
"""Layers that decide where an answer is the gold's text or number."""


def rollout_metrics(batch: StepBatch) -> dict[str, float]:
    """`reward/`, `length/` and `speed/` metrics of the step's rollouts and verdicts."""
    rollouts, graded = [rollout for group in batch.groups for rollout in group], batch.graded
    tokens = sum(len(r.token_ids) for r in rollouts)
    return {
        "reward/pass@1": float(graded.correct.mean()),
        "reward/pass@group": float(graded.correct.amax(1).mean()),
        "length/truncated": sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
        "speed/generated_tokens": float(tokens),
    }


def paid_metrics(batch: StepBatch) -> dict[str, float]:
    """How many answers of the step are right, and which shares of them were given without a box, read from prose, and in
    another form than the gold's. `pipeline.tracking.drift` watches the shares."""
    both = zip(batch.groups, batch.graded.grades, strict=True)
    right = [(r, grade) for group, grades in both for r, grade in zip(group, grades, strict=True) if grade.correct]
    if not right:
        return {"verify/paid": 0.0}
    some = random.Random(0).sample(right, min(LOOKED_AT, len(right)))
    given = [how_given(graded_text(rollout)) for rollout, _ in some]
    return {
        "verify/paid": float(len(right)),
        "verify/paid_unboxed": sum(how != "box" for how in given) / len(given),
        "verify/paid_prose": given.count("prose") / len(given),
        "verify/paid_other_form": sum(grade.layer not in SAME_FORM for _, grade in right) / len(right),
    }


def lag_metrics(batch: StepBatch, version: int) -> dict[str, float]:
    """How many steps older than `version`, the weights that training starts from, the weights are that sampled the batch:
    the mean over its tokens, and the largest."""
    lags = [version - sampled for group in batch.groups for rollout in group for sampled in rollout.token_versions]
    lags = lags or [0]  # all responses may be empty
    return {"rollout/version_lag_mean": sum(lags) / len(lags), "rollout/version_lag_max": float(max(lags))}


def lags_of(batch: StepBatch, samples: Samples, version: int) -> torch.Tensor:
    """int64 [T] of `samples`, which are some of the batch's: how many steps older than `version` the weights were that
    sampled each token."""
    rollouts = [rollout for group in batch.groups for rollout in group]
    versions = [sampled for i in samples.index.tolist() for sampled in rollouts[i].token_versions]
    return version - torch.tensor(versions, dtype=torch.int64)


def verify_metrics(grader: Grader) -> dict[str, float]:
    """The verifier's counts since the last step, as `verify/` metrics."""
    return {f"verify/{name}": value for name, value in grader.metrics().items()}


def samples_of(batch: StepBatch, signal: Signal, count: int) -> list[dict[str, Any]]:
    """The first `count` groups, as rows of samples.jsonl: one row for a prompt, with all its responses."""
    rows = []
    graded, width = batch.graded, len(batch.groups[0])
    for i, group in enumerate(batch.groups[:count]):
        responses = [
            {
                "text": rollout.text,
                "tokens": len(rollout.token_ids),
                "reward": float(graded.rewards[i, j]),
                "correct": graded.grades[i][j].correct,
                "layer": graded.grades[i][j].layer,
                "advantage": float(signal.advantages[i * width + j]),
                "finish_reason": rollout.finish_reason,
                "extracted": graded.grades[i][j].extracted,
            }
            for j, rollout in enumerate(group)
        ]
        prompt = group[0].prompt
        rows.append({"prompt_id": prompt.id, "problem": prompt.text, "gold": prompt.gold, "responses": responses})
    return rows


def entropy_metric(entropy: torch.Tensor, weights: torch.Tensor) -> dict[str, float]:
    """`policy/entropy`: the mean over the step's response tokens, at the weights that the update starts from.

    Args:
        entropy: fp32 [T] of the scored tokens.
        weights: fp64 [T], how many of the step's tokens each speaks for (`Signal.token_weights`).
    """
    total = float(weights.sum())
    return {"policy/entropy": float((entropy.double() * weights).sum()) / total} if total else {}


def mean_metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over a step's optimizer steps, those left out where it is NaN (a skipped step has no
    gradient norm); the rows have the same names."""
    means = {}
    for name in rows[0]:
        values = [row[name] for row in rows if not math.isnan(row[name])]
        means[name] = sum(values) / len(values) if values else math.nan
    return means


@dataclass
class CollapseWatch:
    """Says once that the policy seems to have collapsed: after `STEPS` steps in a row of one sign."""

    vocab_size: int
    reward_min: float
    STEPS: ClassVar[int] = 10
    LITTLE: ClassVar[float] = 1e-3
    """Entropy (nats) below which a response is certain in advance."""
    _rows: dict[str, int] = field(default_factory=dict)

    def see(self, metrics: Mapping[str, Any]) -> list[str]:
        """The warnings that this step's metrics bring, mostly none."""
        entropy, reward = metrics.get("policy/entropy"), metrics.get("reward/mean")
        highest = math.log(self.vocab_size)
        signs = {
            "policy/entropy is about zero: every response is certain in advance": entropy is not None
            and entropy < self.LITTLE,
            f"policy/entropy is at its maximum of {highest:.2f}: every token is equally likely": entropy is not None
            and entropy > 0.99 * highest,
            f"reward/mean is at its minimum of {self.reward_min:g}": reward is not None
            and reward <= self.reward_min + 1e-6,
        }
        for text, holds in signs.items():
            self._rows[text] = self._rows.get(text, 0) + 1 if holds or self._rows.get(text, 0) >= self.STEPS else 0
        return [
            f"WARNING: for {self.STEPS} steps {text}. The policy may have collapsed; look at samples.jsonl. Shown once."
            for text in signs
            if self._rows[text] == self.STEPS
        ]


@dataclass
class SkipWatch:
    """Says that optimizer steps were skipped, when the step before had none."""

    _skipping: bool = False

    def see(self, step: int, metrics: Mapping[str, Any]) -> list[str]:
        """The warning that this step's metrics bring, mostly none."""
        share, before = metrics.get("optim/skipped", 0.0), self._skipping
        self._skipping = share > 0
        if before or not self._skipping:
            return []
        return [
            f"WARNING: step {step}: {share:.0%} of its optimizer steps were skipped, because loss or gradient is not finite. "
            "The weights are as before them."
        ]


def is_due(step: int, every: int) -> bool:
    """True at every `every`-th step; never if `every` is 0."""
    return every > 0 and step % every == 0
