"""Any step again: the update of step n from the checkpoint before it and the responses that were kept of it.

Shows every metric as it was then, as it is now, and the difference. In the layout of the run the two are equal to the bit; in
another one (`layout.tp=1 cluster.devices_per_node=1`, on a laptop) as far as its sums allow. Nothing of the run is written to:
the table goes into `replay/`. The steps from the checkpoint to the one that is asked for are made on the way. With
`replay.generate` the responses are sampled again as well and compared; the update is made from the kept ones all the same.
"""

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from megatron_patches import session
from megatron_patches.engines.choose import build_engine, sampling_of
from megatron_patches.model import checkpoint
from megatron_patches.training.actor import Actor
from megatron_patches.training.policy_loss import Objective
from pipeline.common.errors import InputError
from pipeline.common.files import read_jsonl, write_json, write_text
from pipeline.common.spans import spans
from pipeline.common.tables import aligned
from pipeline.data.tokenizer import load as load_tokenizer
from pipeline.rl import kept_samples, resampled
from pipeline.rl.collector import StepBatch
from pipeline.rl.resampled import Resampled
from pipeline.run.manifests import State
from pipeline.settings import Settings
from pipeline.stage import StageRun, run_stage
from pipeline.tracking import Tracker
from pipeline.tracking.values import is_histogram, number, strict
from stages.rl import guarded_settings, learn, load_reference, start_actor


def main(run: StageRun) -> dict:
    settings = session.start(run)
    step, start = choose(run)
    run.log(
        f"step {step}, from {f'the checkpoint of step {start}' if start else 'the weights that the run began with'}"
    )
    rl = settings.rl.model_copy(update={"max_skipped": 1 << 30})  # a step that was skipped is what one may want to see
    settings = settings.model_copy(update={"rl": rl})
    actor = Actor(settings.model, settings.layout, rl, settings.rollout.temperature)
    load_start(run, settings, actor, start)
    reference = load_reference(run, settings) if settings.algo.kl_coef else None
    sampler = Resampler(run, settings, actor) if settings.replay.generate else None
    compared: Resampled | None = None
    tracker = Tracker(run.folder(), total_steps=step, enabled=False)
    recorded = rows_of(run)
    differences: list[Difference] = []
    said: set[str] = set()
    for at in range(start + 1, step + 1):
        kept = kept_samples.read(run.root, at)
        changes = State(guarded_settings(run), {}).changed_from({"config": kept.settings})
        for change in sorted(set(changes) - said):
            run.log(f"WARNING: the run made step {at} with another setting: {change}")
        said |= set(changes)
        if sampler is not None:
            compared = sampler.again(kept.batch, at)
            run.log(f"step {at}: {compared.text if compared else 'not sampled again: older weights had a part in it'}")
        objective = Objective.of(settings.algo, rl, settings.rollout, kept.sampled_elsewhere)
        _, now = learn(settings, actor, reference, objective, kept.batch, at, tracker)
        differences = list(compare(recorded.get(at, {}), strict(now)))
        equal = sum(entry.is_equal for entry in differences)
        run.log(f"step {at}: {equal} of {len(differences)} metrics are equal to the bit")
    if run.is_main:
        table = table_of(differences)
        run.log(table)
        target = run.folder() / f"step_{step:07d}"
        write_text(target.with_suffix(".txt"), table + "\n")
        layout = settings.layout.model_dump()
        write_json(
            target.with_suffix(".json"),
            {
                "step": step,
                "from": start,
                "layout": layout,
                "metrics": [asdict(entry) for entry in differences],
                "resampled": compared and asdict(compared),
            },
        )
        run.log(f"written to {target}.txt and .json")
    return {"step": step, "from": start}


class Resampler:
    """Samples the kept prompts again, from the weights that the step before has left. Every rank calls its methods together."""

    def __init__(self, run: StageRun, settings: Settings, actor: Actor):
        folder = session.source_folder(run)
        tokenizer = load_tokenizer(folder)
        self.actor, self.sampling = actor, sampling_of(settings, tokenizer)
        actor.park()  # an engine measures the free memory as it starts
        self.engine = build_engine(settings, actor, tokenizer, str(folder))

    def again(self, batch: StepBatch, step: int) -> Resampled | None:
        """Samples the batch of `step` again and compares. None where not all of it came from the weights before that step."""
        groups = batch.groups
        versions = {version for group in groups for rollout in group for version in rollout.token_versions}
        if versions != {step - 1}:
            return None
        self.engine.sync(self.actor, step - 1)
        now = self.engine.generate([group[0].prompt for group in groups], len(groups[0]), self.sampling)
        if not self.engine.independent:
            self.engine.sleep()
        self.actor.fetch()
        return resampled.compare(groups, now)


def choose(run: StageRun) -> tuple[int, int]:
    """The step to replay, and the checkpoint to start from (0: the weights that the run began with).

    Raises InputError if that step cannot be replayed, naming those that can.
    """
    root = run.root / "checkpoints"
    checkpoints = checkpoint.iterations(root) if root.is_dir() else []
    kept = kept_samples.kept_steps(run.root)
    possible = kept_samples.replayable(kept, [0, *checkpoints])
    wanted = run.settings.replay.step
    if not possible:
        raise InputError(
            f"{run.root} has no step to replay: responses are kept of {spans(kept)}, checkpoints of "
            f"{spans(checkpoints)}. Run it with rl.keep_samples of at least rl.save_every."
        )
    if wanted is None:
        wanted = max(possible)
    if wanted in possible:
        return wanted, possible[wanted]
    why = f"its responses are not kept (rl.keep_samples={run.settings.rl.keep_samples} keeps those of the newest steps)"
    if wanted in kept:
        why = f"between it and the checkpoint before it responses are missing (checkpoints: {spans(checkpoints)})"
    raise InputError(f"step={wanted} cannot be replayed: {why}. Steps that can: {spans(possible)}.")


def load_start(run: StageRun, settings: Settings, actor: Actor, start: int) -> None:
    """Fills `actor` from the checkpoint of step `start`, or as the run began. Raises InputError if it is damaged."""
    if not start:
        start_actor(run, settings, actor)
        return
    folder = checkpoint.iteration_folder(run.root / "checkpoints", start)
    remedy = "replay a step that starts from another checkpoint"
    common = checkpoint.load_folder(folder, actor.chunks, settings.model, optimizer=actor.optimizer, remedy=remedy)
    actor.scheduler.load_state_dict(common["scheduler"])


def rows_of(run: StageRun) -> dict[int, Mapping[str, Any]]:
    """The rows of metrics.jsonl by step; a step that never ended has none."""
    path = run.root / "metrics.jsonl"
    return {row["step"]: row for row in read_jsonl(path) if "step" in row} if path.exists() else {}


@dataclass(frozen=True)
class Difference:
    """One metric, then and now; numbers, histograms, or None for NaN and for what was not recorded."""

    metric: str
    then: Any
    now: Any

    @property
    def is_equal(self) -> bool:
        return self.then == self.now

    @property
    def text(self) -> str:
        """`=`, or how far `now` is from `then`."""
        if self.is_equal:
            return "="
        before, after = number(self.then), number(self.now)
        if before is None or after is None:
            return "differs"
        share = f" ({100 * (after - before) / abs(before):+.3g}%)" if before else ""
        return f"{after - before:+.3g}{share}"


NOT_MADE = ("step", "seconds/", "sync/", "eval/", "verify/", "rollout/", "speed/")
"""Beginnings of metrics of generation, grading, evaluation and time, which a replay does not make."""


def compare(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """Every metric that a replay makes or should have made, by name."""
    for name in sorted({*now, *(name for name in before if not name.startswith(NOT_MADE))}):
        yield Difference(name, before.get(name), now.get(name))


def table_of(differences: list[Difference]) -> str:
    rows = [(entry.metric, shown(entry.then), shown(entry.now), entry.text) for entry in differences]
    return "\n".join(aligned(("metric", "then", "now", "difference"), rows))


def shown(value: Any) -> str:
    if is_histogram(value):
        return f"{math.fsum(value['counts']):g} counts"
    return "-" if value is None else f"{value:.9g}" if isinstance(value, float) else json.dumps(value)


if __name__ == "__main__":
    torch.set_float32_matmul_precision("highest")
    run_stage(main)
