"""Pieces of an RL step that know neither Megatron nor the engine: checks of its rollouts, and what to log of them."""

from typing import Any

import torch

from pipeline.common.errors import UserError
from pipeline.rl.collector import Batch
from pipeline.rl.experience import Experience
from pipeline.rl.grading import Grader
from pipeline.settings import Settings


class GapError(UserError):
    """The rollout engine and the actor disagree about the same tokens under the same weights."""


def gap_metrics(settings: Settings, experience: Experience, same_weights: bool = True) -> dict[str, float]:
    """How far the engine's log-probs lie from the actor's for the same tokens.

    Compared are the log-probs of the sampling distribution; where top-p or top-k cuts it, those of the raw policy, which
    the actor's match at temperature 1 alone. Raises GapError beyond `rollout.gap_limit` where both had the same weights.
    """
    rollout = settings.rollout
    whole = rollout.top_p == 1 and rollout.top_k == 0
    if not whole and rollout.temperature != 1:
        return {}
    engine = experience.rollout_logp if whole else experience.raw_logp
    gap = (experience.old_logp - engine).abs()
    finite = gap[torch.isfinite(gap)]
    mean_exp = float(finite.clamp(max=20).exp().mean()) if len(finite) else 1.0
    if same_weights and mean_exp > rollout.gap_limit:
        worst = int(gap.nan_to_num(torch.inf).argmax())
        raise GapError(
            f"engine and actor disagree: mean exp|log-prob gap| is {mean_exp:.3f}, rollout.gap_limit allows "
            f"{rollout.gap_limit}. At response token {worst} of the batch the engine said {float(engine[worst]):.4f} and the "
            f"actor {float(experience.old_logp[worst]):.4f}. Their weights differ, or the engine computes in a lower "
            "precision than the limit foresees"
        )
    return {"gap/checked_mean_exp": mean_exp}


def rollout_metrics(batch: Batch, grader: Grader) -> dict[str, float]:
    """What the rollouts themselves say."""
    rollouts, graded = [rollout for group in batch.groups for rollout in group], batch.graded
    tokens = sum(len(r.token_ids) for r in rollouts)
    return {
        "reward/pass@1": float(graded.correct.mean()),
        "reward/pass@group": float(graded.correct.amax(1).mean()),
        "length/truncated": sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
        "speed/generated_tokens": float(tokens),
        **{f"verify/{name}": value for name, value in grader.metrics().items()},
    }


def samples_of(batch: Batch, experience: Experience, count: int) -> list[dict[str, Any]]:
    """The first `count` groups, as rows of samples.jsonl."""
    rows = []
    graded, width = batch.graded, len(batch.groups[0])
    for i, group in enumerate(batch.groups[:count]):
        responses = [
            {
                "text": rollout.text,
                "reward": float(graded.rewards[i, j]),
                "advantage": float(experience.advantages[i * width + j]),
                "finish_reason": rollout.finish_reason,
                "extracted": graded.grades[i][j].extracted,
            }
            for j, rollout in enumerate(group)
        ]
        prompt = group[0].prompt
        rows.append({"prompt_id": prompt.id, "problem": prompt.text, "gold": prompt.gold, "responses": responses})
    return rows


def mean_metrics(rows: list[dict[str, float]]) -> dict[str, float]:
    """The mean of each metric over a step's optimizer steps."""
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def is_due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
