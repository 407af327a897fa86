"""Pieces of an RL step that know neither Megatron nor the engine: collecting groups, and what to log of them."""

from typing import Any

import torch

from pipeline.data.sampler import PromptSampler
from pipeline.errors import InputError, UserError
from pipeline.experience import Experience
from pipeline.grading import Graded, Grader
from pipeline.objectives import mixed_groups
from pipeline.rollout.interface import Rollout, RolloutEngine, Sampling
from pipeline.settings import Settings
from pipeline.tracking import Tracker

Groups = list[list[Rollout]]


class GapError(UserError):
    """The rollout engine and the actor disagree about the same tokens under the same weights."""


def collect_groups(
    settings: Settings,
    sampler: PromptSampler,
    engine: RolloutEngine,
    grader: Grader,
    sampling: Sampling,
    tracker: Tracker,
) -> tuple[Groups, Graded]:
    """One batch of graded groups; with `algo.dynamic_sampling`, only groups of mixed reward (DAPO), sampled in rounds.

    Raises InputError when `rl.dynamic_sampling_rounds` rounds bring no mixed group at all.
    """
    rl = settings.rl
    kept: list[tuple[Groups, Graded]] = []
    count = 0
    for _ in range(rl.dynamic_sampling_rounds if settings.algo.dynamic_sampling else 1):
        with tracker.phase("generate"):
            groups = engine.generate(sampler.next(), rl.group_size, sampling)
        with tracker.phase("grade"):
            graded = grader.grade(groups)
        if not settings.algo.dynamic_sampling:
            return groups, graded
        mixed = mixed_groups(graded.rewards).nonzero()[:, 0].tolist()[: rl.prompts_per_step - count]
        kept.append(select(groups, graded, mixed))
        count += len(mixed)
        if count == rl.prompts_per_step:
            break
    if not count:
        raise InputError(
            f"{rl.dynamic_sampling_rounds} rounds of {rl.prompts_per_step} prompts brought no group with both right and "
            "wrong answers, so there is nothing to learn from: the problems are all too hard or too easy. Filter them "
            "(stage=rollout, then rl.min_pass_rate= and rl.max_pass_rate=), or set algo.dynamic_sampling=false"
        )
    return merge(kept)


def select(groups: Groups, graded: Graded, chosen: list[int]) -> tuple[Groups, Graded]:
    """The chosen groups alone."""
    grades = [graded.grades[i] for i in chosen]
    return [groups[i] for i in chosen], Graded(grades, graded.rewards[chosen], graded.correct[chosen])


def merge(parts: list[tuple[Groups, Graded]]) -> tuple[Groups, Graded]:
    """Several rounds as one."""
    groups = [group for some, _ in parts for group in some]
    grades = [row for _, graded in parts for row in graded.grades]
    rewards, correct = (torch.cat([getattr(graded, name) for _, graded in parts]) for name in ("rewards", "correct"))
    return groups, Graded(grades, rewards, correct)


def gap_metrics(settings: Settings, experience: Experience) -> dict[str, float]:
    """How far the engine's log-probs lie from the actor's for the same tokens and, on the first use, the same weights.

    Compared are the log-probs of the sampling distribution; where top-p or top-k cuts it, those of the raw policy, which
    the actor's match at temperature 1 alone. Raises GapError beyond `rollout.gap_limit`.
    """
    rollout = settings.rollout
    whole = rollout.top_p == 1 and rollout.top_k == 0
    if not whole and rollout.temperature != 1:
        return {}
    engine = experience.rollout_logp if whole else experience.raw_logp
    gap = (experience.old_logp - engine).abs()
    finite = gap[torch.isfinite(gap)]
    mean_exp = float(finite.clamp(max=20).exp().mean()) if len(finite) else 1.0
    if mean_exp > rollout.gap_limit:
        worst = int(gap.nan_to_num(torch.inf).argmax())
        raise GapError(
            f"engine and actor disagree: mean exp|log-prob gap| is {mean_exp:.3f}, rollout.gap_limit allows "
            f"{rollout.gap_limit}. At response token {worst} of the batch the engine said {float(engine[worst]):.4f} and the "
            f"actor {float(experience.old_logp[worst]):.4f}. Their weights differ, or the engine computes in a lower "
            "precision than the limit foresees"
        )
    return {"gap/checked_mean_exp": mean_exp}


def rollout_metrics(groups: Groups, graded: Graded, grader: Grader) -> dict[str, float]:
    """What the rollouts themselves say."""
    rollouts = [rollout for group in groups for rollout in group]
    tokens = sum(len(r.token_ids) for r in rollouts)
    return {
        "reward/pass@1": float(graded.correct.mean()),
        "reward/pass@group": float(graded.correct.amax(1).mean()),
        "length/truncated": sum(r.finish_reason == "length" for r in rollouts) / len(rollouts),
        "speed/generated_tokens": float(tokens),
        **{f"verify/{name}": float(value) for name, value in grader.pool.metrics().items()},
    }


def samples_of(groups: Groups, graded: Graded, experience: Experience, count: int) -> list[dict[str, Any]]:
    """The first `count` groups, as rows of samples.jsonl."""
    rows = []
    width = len(groups[0])
    for i, group in enumerate(groups[:count]):
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
