"""Trust, but check: after every sync engine and actor score the same few sequences, and if they disagree the weights that
the engine holds are compared with those that it was sent, tensor by tensor."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from megatron_patches.model.weights import export_tensors
from megatron_patches.training.policy import Policy
from pipeline.rl.experience import Samples
from pipeline.rollout.gap import GapError
from pipeline.rollout.interface import Prompt, Rollout
from pipeline.rollout.vllm.blocks import Checksums, worst
from pipeline.settings import Model
from pipeline.settings import Rollout as RolloutSettings

SEQUENCES = 4
"""Sequences that are scored after a sync."""
LONGEST = 512
"""Tokens of a scored sequence at most: the check is to cost less than the sync."""
FIRST_TOKENS = 48
"""Before anything was sampled: random tokens, this many in a sequence."""

Score = Callable[[list[list[int]]], list[list[list[float]]]]
"""Sequences -> for each engine, log-probs of all their tokens but the first, on every rank."""
Held = Callable[[], list[Checksums]]
"""Checksums of what the engines hold, each engine rank's, on every rank."""


class SyncCheck:
    """The sequences that are scored, and the comparison."""

    def __init__(self, model: Model, rollout: RolloutSettings, score: Score, held: Held):
        self.model, self.rollout, self.score, self.held = model, rollout, score, held
        self.sequences: list[tuple[list[int], list[int]]] = []

    def remember(self, groups: list[list[Rollout]]) -> None:
        """The first responses of a batch are scored after the next sync: tokens that this policy does sample."""
        chosen = [group[0] for group in groups[:SEQUENCES] if group[0].token_ids]
        self.sequences = [
            (r.prompt.token_ids[-LONGEST // 2 :], r.token_ids[: LONGEST // 2]) for r in chosen
        ] or self.sequences

    def compare(self, actor: Policy, policy_version: int) -> dict[str, float]:
        """Gap metrics. A collective. Raises GapError beyond `rollout.gap_limit`, naming the worst tensor."""
        sequences = self.sequences or self._random(policy_version)
        theirs = self._actor(actor, sequences)
        engines = self.score([prompt + response for prompt, response in sequences])
        starts = [len(prompt) - 1 for prompt, _ in sequences]
        gaps = torch.stack(
            [
                torch.cat([torch.tensor(row[start:]) for row, start in zip(rows, starts, strict=True)]) - theirs
                for rows in engines
            ]
        ).abs()
        mean_exp = float(gaps.clamp(max=20).exp().mean(1).max()) if torch.isfinite(gaps).all() else float("inf")
        if mean_exp > self.rollout.gap_limit:
            raise GapError(
                f"after the sync of policy version {policy_version} engine and actor disagree: mean exp|log-prob gap| is "
                f"{mean_exp:.3f}, rollout.gap_limit allows {self.rollout.gap_limit}. {self._blame(actor)}"
            )
        return {"gap/sync_mean": float(gaps.mean()), "gap/sync_max": float(gaps.max()), "gap/sync_mean_exp": mean_exp}

    def _random(self, policy_version: int) -> list[tuple[list[int], list[int]]]:
        generator = torch.Generator().manual_seed(policy_version)
        length = max(4, min(FIRST_TOKENS, self.rollout.max_prompt_tokens + self.rollout.max_new_tokens - 1))
        ids = torch.randint(0, self.model.vocab_size, (SEQUENCES, length), generator=generator).tolist()
        return [(row[:2], row[2:]) for row in ids]

    def _actor(self, actor: Policy, sequences: list[tuple[list[int], list[int]]]) -> torch.Tensor:
        """Log-probs of all responses end to end, at temperature 1."""
        groups = [
            [
                Rollout(
                    prompt=Prompt(id="", token_ids=prompt, gold=""),
                    sample=0,
                    token_ids=response,
                    logps=[0.0] * len(response),
                    raw_logps=[0.0] * len(response),
                    finish_reason="length",
                    policy_version=0,
                )
            ]
            for prompt, response in sequences
        ]
        return actor.logprobs(Samples.collect(groups), temperature=1.0)

    def _blame(self, actor: Policy) -> str:
        """Which tensor of the engines lies farthest from the actor's. The actor's come whole through the exporter, which is
        not the way that the sync takes."""
        holdings = self.held()
        name, difference = worst(holdings, self._whole(actor))
        if name is None:
            return (
                "Yet every tensor that can be compared is equal: the engine computes otherwise than the actor, or with "
                "copies of its own (packed or quantised weights)"
            )
        return (
            f"The worst tensor is {name}: its checksum in the engine differs by {difference:.3g} of its size from the "
            "actor's"
        )

    def _whole(self, actor: Policy) -> Iterator[tuple[str, torch.Tensor]]:
        yield from export_tensors(actor.chunks, self.model)


def gathered(mine: Any) -> list[Any]:
    """Every rank's, on every rank."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
