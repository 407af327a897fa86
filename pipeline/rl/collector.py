"""Where a step's batch comes from: prompts sampled into groups, graded, and with `rl.async_depth=1` sampled a step ahead.

Looking ahead, batch n+1 is sampled from the weights that batch n is trained from, so it is one step off-policy when its
turn comes; each rollout says which weights sampled it, and the truncated importance weight corrects the difference. An
engine with devices of its own (`RolloutEngine.independent`) samples in a thread while the actor trains; one that works on
the actor's devices samples first, and what overlaps is the grading.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.common.errors import InputError
from pipeline.common.waiting import result_of
from pipeline.objectives import mixed_groups
from pipeline.rl.grading import Graded, Grader
from pipeline.rl.prompt_sampler import PromptSampler
from pipeline.rollout.interface import Groups, Prompt, RolloutEngine, Sampling
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
        """The chosen groups alone."""
        graded = self.graded
        grades = [graded.grades[i] for i in chosen]
        return StepBatch(
            [self.groups[i] for i in chosen], Graded(grades, graded.rewards[chosen], graded.correct[chosen])
        )


def merge(parts: list[StepBatch]) -> StepBatch:
    """Several rounds as one."""
    groups = [group for part in parts for group in part.groups]
    grades = [row for part in parts for row in part.graded.grades]
    rewards = torch.cat([part.graded.rewards for part in parts])
    correct = torch.cat([part.graded.correct for part in parts])
    return StepBatch(groups, Graded(grades, rewards, correct))


class Collector:
    """Batches of `rl.prompts_per_step` groups, in the sampler's order. Every rank calls every method in step."""

    def __init__(
        self,
        rl: Rl,
        sampler: PromptSampler,
        engine: RolloutEngine,
        grader: Grader,
        sampling: Sampling,
        tracker: Tracker,
        dynamic_sampling: bool = False,
    ):
        """`dynamic_sampling`: batches hold only groups of mixed reward (`algo.dynamic_sampling`)."""
        self.rl, self.sampler, self.engine, self.grader = rl, sampler, engine, grader
        self.sampling, self.tracker, self.dynamic_sampling = sampling, tracker, dynamic_sampling
        self.rounds = 0
        """Generation rounds that the newest batch took."""
        self._was_short = False
        self._ahead: Groups | Future[Groups] | None = None
        self._thread = ThreadPoolExecutor(1, "rollout") if engine.independent and rl.async_depth else None

    def next(self) -> StepBatch:
        """The next batch; with `algo.dynamic_sampling`, only groups of mixed reward (DAPO), sampled in rounds.

        Such a batch may be short after `rl.dynamic_sampling_rounds` rounds; the first that is says so. Raises InputError
        when they bring no mixed group at all.
        """
        rl = self.rl
        self.rounds = 1
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
                f"To continue this run with more rounds, set rl.dynamic_sampling_rounds={2 * rl.dynamic_sampling_rounds}. "
                f"Or start another run (name=...): {cure}, or set algo.dynamic_sampling=false."
            )
        if count < rl.prompts_per_step and not self._was_short:
            self._was_short = True
            if self.tracker.enabled:
                print(
                    f"WARNING: {came} gave {count} of {rl.prompts_per_step} usable groups. To fill the batch, raise "
                    f"rl.dynamic_sampling_rounds, or {cure}. Shown once; rollout/groups in metrics.jsonl has every step.",
                    flush=True,
                )
        return merge(kept)

    def look_ahead(self) -> None:
        """Begin the next batch from the engine's present weights: in a thread, or now where the engine needs the actor's
        devices. Its responses are graded as they end."""
        assert self._ahead is None, "a batch is under way already"
        prompts = self.sampler.next()
        if self._thread is not None:
            self._ahead = self._thread.submit(self._sample, prompts)
            return
        with self.tracker.phase("generate"):
            self._ahead = self._sample(prompts)

    def wait(self) -> None:
        """Return when nothing samples any more, so that the engine's weights may change."""
        if isinstance(self._ahead, Future):
            with self.tracker.phase("generate"):
                self._ahead = result_of(self._ahead)

    def metrics(self, batch: StepBatch, version: int) -> dict[str, float]:
        """How the batch came about; `version` is that of the weights that it is trained from."""
        lags = [version - rollout.policy_version for group in batch.groups for rollout in group]
        return {
            "rollout/rounds": float(self.rounds),
            "rollout/groups": float(len(batch)),
            "rollout/version_lag_mean": sum(lags) / len(lags),
            "rollout/version_lag_max": float(max(lags)),
        }

    def state_dict(self) -> dict[str, Any]:
        """Where the prompts are, and the batch that was sampled ahead, so that a resumed run trains on the same one."""
        self.wait()
        ahead = None if self._ahead is None else pack_groups(self._ahead)  # type: ignore[arg-type]
        return {"sampler": self.sampler.state_dict(), "ahead": ahead}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises InputError where the training prompts are others than those of the checkpoint."""
        self.sampler.load_state_dict(state["sampler"])
        if state["ahead"] is not None:
            self._ahead = unpack_groups(state["ahead"], {prompt.id: prompt for prompt in self.sampler.prompts})

    def close(self) -> None:
        """End the thread, after what it is sampling. Calling it again does nothing."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)

    def __enter__(self) -> "Collector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _round(self) -> StepBatch:
        if self._ahead is None:
            with self.tracker.phase("generate"):
                groups = self._sample(self.sampler.next())
        else:
            self.wait()
            groups, self._ahead = self._ahead, None  # type: ignore[assignment]
        with self.tracker.phase("grade"):
            return StepBatch(groups, self.grader.grade(groups))

    def _sample(self, prompts: list[Prompt]) -> Groups:
        return self.engine.generate(prompts, self.rl.group_size, self.sampling, on_finish=self.grader.early)
