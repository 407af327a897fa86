"""The record of a training run: `metrics.jsonl`, `samples.jsonl`, TensorBoard events, other trackers, and one printed line per
step."""

import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from pipeline.common import heartbeat
from pipeline.common.files import append_jsonl, read_jsonl, write_jsonl
from pipeline.common.spans import spans
from pipeline.tracking.events import Events
from pipeline.tracking.progress import Clock, Progress, duration, shown
from pipeline.tracking.services import Services
from pipeline.tracking.values import number, strict

FIGURES = (
    ("reward", ("reward/mean",)),
    ("acc", ("reward/pass@1",)),
    ("clip", ("clip/low", "clip/high")),
    ("entropy", ("policy/entropy",)),
    ("tok/s", ("speed/tokens_per_s",)),
    ("mfu", ("speed/mfu",)),
)
"""Figures of the line, and the metric of each; `clip` is the sum of two, and like `mfu` in per cent."""


class Tracker:
    """Records the metrics of each step. Enabled on rank 0; the other ranks only time the phases.

    Args:
        root: the run's folder.
        total_steps: steps of the whole run, for the time left.
        enabled: False: nothing is written or shown.
        label: the start of each line.
        events: write TensorBoard events.
        services: other trackers.
        devices: ranks of the run, for the speed of one.
        peak: most operations a second of one device, for MFU; None: not known.
        stream, clock: for tests; standard output and `time.perf_counter` otherwise.
    """

    def __init__(
        self,
        root: Path | str,
        total_steps: int,
        enabled: bool = True,
        label: str = "rl",
        *,
        events: bool = True,
        services: Services | None = None,
        devices: int = 1,
        peak: float | None = None,
        stream: TextIO | None = None,
        clock: Clock = time.perf_counter,
    ) -> None:
        root = Path(root)
        self.enabled = enabled
        self._metrics = StepFile(root / "metrics.jsonl")
        self._samples = StepFile(root / "samples.jsonl")
        self._events = Events(root / "tensorboard") if events else None
        self._services = services or Services()
        self._devices, self._peak = devices, peak
        self._clock = clock
        self._shape = (total_steps, label, stream)
        self._progress: Progress | None = None
        self._seconds: dict[str, float] = {}
        self._since = clock()
        self._resumed = 0
        self._last: int | None = None

    def resume(self, step: int) -> None:
        """Continue from a checkpoint of `step`: drop what was written of later steps, and print which earlier steps have no
        row. Call it before the first `log`, also on a fresh start (`resume(0)`)."""
        self._resumed = step
        if self.enabled:
            lost = set(range(1, step + 1)) - self._metrics.rewind(step)
            self._samples.rewind(step)
            if lost:
                stream = self._shape[2] or sys.stdout
                text = (
                    f"WARNING: {self._metrics.path} has no row of {_steps(lost)}: torn or lost when the run was killed."
                )
                print(
                    f"{text} The report's curves have a gap there; the training itself is complete.",
                    file=stream,
                    flush=True,
                )
            if self._events is not None:
                self._events = Events(self._events.folder, purge_step=step + 1)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows that are in metrics.jsonl; none where this tracker is not enabled."""
        if self.enabled and self._metrics.path.exists():
            yield from read_jsonl(self._metrics.path)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Adds the seconds spent inside to `seconds/<name>` of the next row, also when the work raises. The watchdog
        is told the phase. A phase inside another one is counted in both."""
        start = self._clock()
        try:
            with heartbeat.phase(name):
                yield
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + self._clock() - start

    def log(self, step: int, metrics: Mapping[str, Any]) -> dict[str, Any]:
        """Writes one step's row: `metrics`, the phases as `seconds/<phase>`, and `seconds/step`, all since the last call; from
        `speed/generated_tokens` also the response tokens a second of the whole step (of all devices, and of one) and of the
        `generate` phase; from `speed/update_operations` the share of the devices' peak in the `update` phase. Steps must rise;
        rows that an earlier process left for this step or later ones are dropped. The row is on the disk when this returns, so
        that a checkpoint saved afterwards never has more steps than the file has rows.

        Args:
            metrics: `<group>/<name>` -> number, or `{"edges": [n + 1], "counts": [n]}`. NaN and infinity become null.

        Returns:
            The row as written.

        Raises:
            ValueError: this tracker has logged the step or a later one before.
        """
        if self._last is not None and step <= self._last:
            raise ValueError(f"step {step} is logged after step {self._last}; give all metrics of a step in one call")
        self._last = step
        now = self._clock()
        timed = {f"seconds/{name}": seconds for name, seconds in self._seconds.items()}
        timed |= {"seconds/step": now - self._since}
        row = {"step": step} | strict(timed | self._speeds(metrics, timed) | dict(metrics))
        self._seconds = {}
        if self.enabled:
            self._metrics.append(step, [row])
            if self._events is not None:
                self._events.add(step, time.time(), row)
            self._services.log(step, row)
            self._show(step, row)
        self._since = self._clock()
        return row

    def samples(self, step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Appends rollouts of this step to `samples.jsonl`; `step` is added to each row.

        Rows are `{"prompt_id", "problem", "gold", "responses": [{"text", "tokens", "reward", "advantage", "finish_reason",
        "extracted"}]}`.
        """
        if self.enabled:
            self._samples.append(step, [{"step": step} | strict(dict(row)) for row in rows])

    def close(self) -> None:
        """Flush the events and end the display. Calling it again does nothing."""
        if self._events is not None:
            self._events.close()
        self._services.close()
        if self._progress is not None:
            self._progress.close()

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _speeds(self, metrics: Mapping[str, Any], timed: Mapping[str, float]) -> dict[str, float]:
        """Work of the step by the seconds that it took; without what is not known."""
        tokens, operations = (
            number(metrics.get(f"speed/{name}")) for name in ("generated_tokens", "update_operations")
        )
        step, generate, update = (timed.get(f"seconds/{name}", 0.0) for name in ("step", "generate", "update"))
        speeds: dict[str, float] = {}
        if tokens is not None and step > 0:
            speeds |= {"speed/tokens_per_s": tokens / step, "speed/tokens_per_s_device": tokens / step / self._devices}
        if tokens is not None and generate > 0:
            speeds |= {"speed/rollout_tokens_per_s": tokens / generate}
        if operations is not None and self._peak is not None and update > 0:
            speeds |= {"speed/mfu": operations / update / (self._peak * self._devices)}
        return speeds

    def _show(self, step: int, row: Mapping[str, Any]) -> None:
        if self._progress is None:
            total, label, stream = self._shape
            started = self._clock() - row["seconds/step"]
            done = min(self._resumed, step)
            self._progress = Progress(
                total, label, "steps", done=done, started=started, stream=stream, clock=self._clock
            )
        self._progress.reach(step, figures(row), line=True)


class StepFile:
    """A JSONL file whose rows have a `step` that never falls, also when several processes wrote it one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._checked = False

    def rewind(self, step: int) -> set[float]:
        """Drops the rows after `step` and returns the steps of the others. The file is replaced atomically, and only if it
        holds such rows."""
        self._checked = True
        if not self.path.exists():
            return set()
        steps = {_step_of(row) for row in read_jsonl(self.path)}
        kept = {found for found in steps if found <= step}
        if kept != steps:
            write_jsonl(self.path, (row for row in read_jsonl(self.path) if _step_of(row) <= step))
        return kept

    def append(self, step: int, rows: list[dict[str, Any]]) -> None:
        """Appends rows of one step. The first call drops what an earlier process left of this step and later ones."""
        if not self._checked:
            self.rewind(step - 1)
        append_jsonl(self.path, rows, durable=True)


def figures(row: Mapping[str, Any]) -> str:
    """The key figures of a step in one line: `reward 0.512  acc 0.489  clip 1.2%  entropy 0.83  9,600 tok/s  1.3 s`."""
    parts = []
    for label, names in FIGURES:
        found = [value for name in names if (value := number(row.get(name))) is not None]
        if not found:
            continue
        if label in ("clip", "mfu"):
            parts.append(f"{label} {100 * sum(found):.1f}%")
        elif label == "tok/s":
            parts.append(f"{shown(found[0])} tok/s")
        else:
            parts.append(f"{label} {shown(found[0])}")
    seconds = number(row.get("seconds/step"))
    return "  ".join(parts + ([duration(seconds)] if seconds is not None else []))


def _steps(numbers: set[int]) -> str:
    """`step 3`, or `steps 3, 7-9`."""
    return f"step{'s' if len(numbers) > 1 else ''} {spans(numbers)}"


def _step_of(row: Mapping[str, Any]) -> float:
    step = row.get("step")
    return step if isinstance(step, int | float) else float("-inf")
