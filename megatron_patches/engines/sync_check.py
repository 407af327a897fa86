"""The check after every sync: engine and actor score the same few sequences. If they disagree, the engine's weights are
compared with the actor's, tensor by tensor, to name the worst one."""

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
"""Number of sequences that are scored after a sync."""
LONGEST = 512
"""Most tokens of a scored sequence: the check should cost less than the sync."""
FIRST_TOKENS = 48
"""Tokens per random sequence, which are scored before anything is sampled."""

Score = Callable[[list[list[int]]], list[list[list[float]]]]
"""Sequences -> for each engine, log-probs (nats) of all tokens except the first, on every rank."""
Held = Callable[[], list[Checksums]]
"""Returns the checksums of the weights of every engine rank, on every rank."""


class SyncCheck:
    """Keeps the sequences to score, and compares engine and actor on them."""

    def __init__(self, model: Model, rollout: RolloutSettings, score: Score, held: Held):
        self.model, self.rollout, self.score, self.held = model, rollout, score, held
        self.sequences: list[tuple[list[int], list[int]]] = []

    def remember(self, groups: list[list[Rollout]]) -> None:
        """Keeps the first responses of a batch for the next check: they are tokens that this policy does sample."""
        chosen = [group[0] for group in groups[:SEQUENCES] if group[0].token_ids]
        self.sequences = [
            (r.prompt.token_ids[-LONGEST // 2 :], r.token_ids[: LONGEST // 2]) for r in chosen
        ] or self.sequences

    def expected(self, actor: Policy, policy_version: int) -> torch.Tensor:
        """The actor's log-probs of the sequences that `compare` scores. A collective."""
        return self._actor(actor, self.sequences or self._random(policy_version))

    def compare(self, actor: Policy, policy_version: int, expected: torch.Tensor | None = None) -> dict[str, float]:
        """Returns gap metrics (nats) between the engines and `expected`, which is asked of the actor if it is not given. A
        collective. Raises GapError, naming the worst tensor, above `rollout.gap_limit`."""
        sequences = self.sequences or self._random(policy_version)
        theirs = self.expected(actor, policy_version) if expected is None else expected
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
            actor.fetch(weights_only=True)
            raise GapError(
                f"engine and actor disagree after the sync of policy version {policy_version}: mean exp|log-prob gap| "
                f"is {mean_exp:.3f}, above rollout.gap_limit={self.rollout.gap_limit}. {self._blame(actor)}"
            )
        return {"gap/sync_mean": float(gaps.mean()), "gap/sync_max": float(gaps.max()), "gap/sync_mean_exp": mean_exp}

    def _random(self, policy_version: int) -> list[tuple[list[int], list[int]]]:
        """Makes random sequences, the same on every rank, as (prompt, response)."""
        generator = torch.Generator().manual_seed(policy_version)
        length = max(4, min(FIRST_TOKENS, self.rollout.max_prompt_tokens + self.rollout.max_new_tokens - 1))
        ids = torch.randint(0, self.model.vocab_size, (SEQUENCES, length), generator=generator).tolist()
        return [(row[:2], row[2:]) for row in ids]

    def _actor(self, actor: Policy, sequences: list[tuple[list[int], list[int]]]) -> torch.Tensor:
        """Computes the actor's log-probs of all responses, packed, at temperature 1."""
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
        """Says which tensor of the engines differs most from the actor's.

        The actor's tensors come from the exporter, whose code is not that of the sync.
        """
        holdings = self.held()
        if not holdings:
            for _ in self._whole(actor):  # the exporter is a collective
                pass
            return (
                "The servers cannot say which tensor differs: start them with --worker-extension-cls "
                "pipeline.rollout.vllm.serve.extension.Extension (docs/rollout.md)"
            )
        name, difference = worst(holdings, self._whole(actor))
        if name is None:
            return (
                "Every tensor that can be compared is equal, so the engine computes differently, or uses copies of the "
                "weights (packed or quantised). Check that dtype and model code of both agree, and report it if they do"
            )
        return (
            f"The worst tensor is {name}: its checksum in the engine differs from the actor's by {difference:.3g} of "
            "its size, so the sync did not write it correctly"
        )

    def _whole(self, actor: Policy) -> Iterator[tuple[str, torch.Tensor]]:
        yield from export_tensors(actor.chunks, self.model)


def gathered(mine: Any) -> list[Any]:
    """Gathers `mine` of every rank to every rank. A collective."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return everyone
