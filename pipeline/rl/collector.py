"""The batch of a step: responses are sampled in groups and graded. With `rl.async_depth=k` they are sampled k rounds
ahead.

Then the rounds for steps n+1 to n+k wait in a queue while step n is trained, and a round is up to k steps off-policy when it is
used. Each rollout carries the version of its weights, and the importance weight corrects the difference. An engine with
its own devices (`RolloutEngine.independent`) samples in a thread while the actor trains. An engine on the actor's
devices samples first, and only the grading overlaps with training. With `rollout.partial_tokens` a batch holds the first
groups that are whole instead (`pipeline.rl.partial`).
"""

import math
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast

import torch

from pipeline.common.errors import InputError
from pipeline.common.waiting import result_of
from pipeline.objectives import mixed_groups
from pipeline.rl.grading import Graded, Grader
from pipeline.rl.partial import UnderWay
from pipeline.rl.prompt_sampler import PromptSampler
from pipeline.rollout.interface import ContinuingEngine, Groups, Prompt, RolloutEngine, Sampling
from pipeline.rollout.packing import pack_groups, unpack_groups
from pipeline.settings import Rl
from pipeline.tracking import Tracker


@dataclass
class StepBatch:
    """Groups of rollouts and their grades, prompt by prompt."""

    groups: Groups
    graded: Graded

    def __len__(self) -> int:
        return len(self.groups)

    def select(self, chosen: list[int]) -> "StepBatch":
        """Selects groups by index."""
        graded = self.graded
        grades = [graded.grades[i] for i in chosen]
        return StepBatch(
            [self.groups[i] for i in chosen], Graded(grades, graded.rewards[chosen], graded.correct[chosen])
        )


def merge(parts: list[StepBatch]) -> StepBatch:
    """Joins several rounds into one batch."""
    groups = [group for part in parts for group in part.groups]
    grades = [row for part in parts for row in part.graded.grades]
    rewards = torch.cat([part.graded.rewards for part in parts])
    correct = torch.cat([part.graded.correct for part in parts])
    return StepBatch(groups, Graded(grades, rewards, correct))


@dataclass(frozen=True)
class Sampled:
    """One round of sampling."""

    groups: Groups
    seconds: float
    """How long it took, also where the actor trained meanwhile; NaN if an earlier process sampled it."""


class Collector:
    """Makes batches of `rl.prompts_per_step` groups, in the sampler's order. Every rank calls each method together."""

    def __init__(
        self,
        rl: Rl,
        sampler: PromptSampler,
        engine: RolloutEngine,
        grader: Grader,
        sampling: Sampling,
        tracker: Tracker,
        dynamic_sampling: bool = False,
        partial_tokens: int = 0,
    ):
        """`dynamic_sampling`: batches hold only groups of mixed reward (`algo.dynamic_sampling`). `partial_tokens`: as
        `rollout.partial_tokens`; above 0 the engine is a `ContinuingEngine`, and nothing is sampled ahead."""
        self.rl, self.sampler, self.engine, self.grader = rl, sampler, engine, grader
        self.sampling, self.tracker, self.dynamic_sampling = sampling, tracker, dynamic_sampling
        self.rounds = 0
        """Rounds of generation for the newest batch."""
        self._was_short = False
        self._sampling_s = 0.0
        """Seconds of sampling for the newest batch."""
        self._ahead: deque[Sampled | Future[Sampled]] = deque()
        """Rounds that were sampled ahead or are being sampled, in the order of their use."""
        self._depth = 0 if partial_tokens else rl.async_depth
        self._thread = ThreadPoolExecutor(1, "rollout") if engine.independent and self._depth else None
        self.under_way: UnderWay | None = None
        """The groups that rounds of `partial_tokens` tokens are sampled for; None: every response is sampled at once."""
        if partial_tokens:
            continuing = cast(ContinuingEngine, engine)
            self.under_way = UnderWay(continuing, sampler, rl.group_size, sampling, partial_tokens)

    def next(self) -> StepBatch:
        """Returns the next batch. With `algo.dynamic_sampling` it holds only groups of mixed reward, sampled in rounds
        (DAPO, arXiv 2503.14476, section 3.2).

        Such a batch may be short after `rl.dynamic_sampling_rounds` rounds; the first short one prints a warning.
        Raises InputError if there is no mixed group in all rounds.
        """
        rl = self.rl
        self.rounds, self._sampling_s = 1, 0.0
        if not self.dynamic_sampling:
            return self._round()
        kept: list[StepBatch] = []
        count = right = wrong = 0
        for self.rounds in range(1, rl.dynamic_sampling_rounds + 1):
            batch = self._round()
            mixed = mixed_groups(batch.graded.rewards).nonzero()[:, 0].tolist()[: rl.prompts_per_step - count]
            kept.append(batch.select(mixed))
            count += len(mixed)
            right += int(batch.graded.correct.all(1).sum())
            wrong += int((~batch.graded.correct.bool()).all(1).sum())
            if count == rl.prompts_per_step:
                break
        came = f"{self.rounds} rounds of {rl.prompts_per_step} prompts ({wrong} groups all wrong, {right} all right)"
        cure = "leave such problems out (stage=rollout, then rl.min_pass_rate=0 rl.max_pass_rate=1)"
        if not count:
            raise InputError(
                f"No usable groups: in {came} every group had identical rewards, so there is nothing to learn from. "
                "To continue this run with more rounds, set "
                f"rl.dynamic_sampling_rounds={2 * rl.dynamic_sampling_rounds}. "
                f"Or start another run (name=...): {cure}, or set algo.dynamic_sampling=false."
            )
        if count < rl.prompts_per_step and not self._was_short:
            self._was_short = True
            if self.tracker.enabled:
                print(
                    f"WARNING: {came} gave {count} of {rl.prompts_per_step} usable groups. To fill the batch, raise "
                    f"rl.dynamic_sampling_rounds, or {cure}. Shown once; rollout/groups in metrics.jsonl has every "
                    "step.",
                    flush=True,
                )
        return merge(kept)

    def look_ahead(self, steps_left: int) -> None:
        """Fills the queue up to `rl.async_depth` rounds, at most one for each of the `steps_left` steps after this one, from
        the engine's current weights; responses are graded as they end.

        Sampling runs in a thread, or at once in this call if the engine needs the actor's devices.
        """
        while len(self._ahead) < min(self._depth, steps_left):
            prompts = self.sampler.next()
            if self._thread is not None:
                self._ahead.append(self._thread.submit(self._sample, prompts))
                continue
            with self.tracker.phase("generate"):
                self._ahead.append(self._sample(prompts))

    def wait(self) -> None:
        """Waits until sampling ends, so that the engine's weights may change."""
        if self._thread is not None and self._ahead:
            with self.tracker.phase("generate"):
                self._ahead = deque(_ended(sampled) for sampled in self._ahead)

    def metrics(self, batch: StepBatch) -> dict[str, float]:
        """Returns rounds and groups of the newest batch, and what is carried over the update."""
        metrics = {"rollout/rounds": float(self.rounds), "rollout/groups": float(len(batch))}
        metrics |= {"speed/sampling_s": self._sampling_s}
        return metrics | (self.under_way.metrics() if self.under_way is not None else {})

    def state_dict(self) -> dict[str, Any]:
        """Returns the sampler's state, the rounds that were sampled ahead, and the groups under way; a resumed run trains on
        the same ones."""
        self.wait()
        state = {
            "sampler": self.sampler.state_dict(),
            "ahead": [pack_groups(_ended(sampled).groups) for sampled in self._ahead],
        }
        return state | ({"under_way": self.under_way.state_dict()} if self.under_way is not None else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores them. Raises InputError if the training prompts are not those of the checkpoint."""
        self.sampler.load_state_dict(state["sampler"])
        prompts = {prompt.id: prompt for prompt in self.sampler.prompts}
        self._ahead = deque(Sampled(unpack_groups(packed, prompts), math.nan) for packed in state["ahead"])
        if self.under_way is not None:
            self.under_way.load_state_dict(state["under_way"])

    def close(self) -> None:
        """Ends the thread once its sampling is done. Calling it again does nothing."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> "Collector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _round(self) -> StepBatch:
        with self.tracker.phase("generate"):
            if self.under_way is not None:
                begun = time.perf_counter()
                sampled = Sampled(self.under_way.next(self.grader.early), time.perf_counter() - begun)
            else:
                sampled = _ended(self._ahead.popleft()) if self._ahead else self._sample(self.sampler.next())
        self._sampling_s += sampled.seconds
        with self.tracker.phase("grade"):
            return StepBatch(sampled.groups, self.grader.grade(sampled.groups))

    def _sample(self, prompts: list[Prompt]) -> Sampled:
        begun = time.perf_counter()
        groups = self.engine.generate(prompts, self.rl.group_size, self.sampling, on_finish=self.grader.early)
        return Sampled(groups, time.perf_counter() - begun)


def _ended(sampled: Sampled | Future[Sampled]) -> Sampled:
    """The round, after waiting for it if it is still being sampled."""
    return result_of(sampled) if isinstance(sampled, Future) else sampled
