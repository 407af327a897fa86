"""What to log of a step's rollouts."""

from typing import Any

import torch

from pipeline.rl.collector import StepBatch
from pipeline.rl.experience import Signal
from pipeline.rl.grading import Grader


def rollout_metrics(batch: StepBatch, grader: Grader) -> dict[str, float]:
    """`reward/`, `length/`, `speed/` and `verify/` metrics of the step's rollouts and grades."""
    rollouts, graded = [rollout for group in batch.groups for rollout in group], batch.graded
    tokens = sum(len(r.token_ids) for r in rollouts)
    return {
        "reward/pass@1": float(graded.correct.mean()),
        "reward/pass@group": float(graded.correct.amax(1).mean()),
        "length/truncated": sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
        "speed/generated_tokens": float(tokens),
        **{f"verify/{name}": value for name, value in grader.metrics().items()},
    }


def samples_of(batch: StepBatch, signal: Signal, count: int) -> list[dict[str, Any]]:
    """The first `count` groups, as rows of samples.jsonl: one row for a prompt, with all its responses."""
    rows = []
    graded, width = batch.graded, len(batch.groups[0])
    for i, group in enumerate(batch.groups[:count]):
        responses = [
            {
                "text": rollout.text,
                "reward": float(graded.rewards[i, j]),
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
    """The mean of each metric over a step's optimizer steps; the rows have the same names."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def is_due(step: int, every: int) -> bool:
    """True at every `every`-th step; never if `every` is 0."""
    return every > 0 and step % every == 0
