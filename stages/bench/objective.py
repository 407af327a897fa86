"""`stage=bench what=objective`: what the objective costs in a step, and what elasticity adds to it.

Everything that is not the model: advantages, bounds and their metrics once for a rollout batch; loss, gradient by
log-prob and metrics for every micro-batch; the metrics' numbers. ETR and GRPO take turns on the same tokens.
"""

import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from pipeline.objectives import (
    PolicyLossInputs,
    add_up,
    clip_bounds,
    denominator,
    group_advantages,
    group_metrics,
    policy_loss,
    prepare,
)
from pipeline.settings import Algo, Settings


@dataclass(frozen=True)
class Workload:
    """One data-parallel rank's part of a step."""

    name: str
    prompts: int
    group: int
    length: int
    """Greatest length of a response; the mean is half of it."""
    micro_batch: int
    """Tokens."""


WORKLOADS = (
    Workload("tiny", prompts=32, group=8, length=48, micro_batch=2048),
    Workload("32b", prompts=16, group=8, length=3072, micro_batch=8192),
)
ALGORITHMS = {"grpo": Algo(loss="grpo", alpha=0.0, beta=0.0), "etr": Algo()}


def bench(settings: Settings, console: Console | None = None) -> dict[str, Any]:
    """Median milliseconds of each part over `settings.bench.repeats` turns (at least 5); prints a table.

    On a GPU these are of the wall clock; on a CPU, of processor time, which other processes of the machine disturb less.

    Returns a JSON-ready dict with a row for each workload: its size, `parts` {algorithm: {part: ms}}, `total_ms`
    {algorithm: ms}, `all_ms` {algorithm: ms of every turn} and `etr_minus_grpo_ms`, the median over turns of the
    difference within a turn.
    """
    console = console or Console()
    cuda = settings.cluster.device != "cpu" and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    repeats = max(settings.bench.repeats, 5)
    rows = [_measure(workload, device, repeats) for workload in WORKLOADS]
    report = {
        "what": "objective",
        "device": device.type,
        "clock": "wall time" if cuda else "processor time",
        "threads": torch.get_num_threads(),
        "repeats": repeats,
        "rows": rows,
        "samples": {f"{row['name']}, {name}": row["all_ms"][name] for row in rows for name in ALGORITHMS},
    }
    console.print(_table(report))
    return report


def _measure(workload: Workload, device: torch.device, repeats: int) -> dict[str, Any]:
    step = _Step(workload, device)
    repeats *= 5 if step.tokens < 20_000 else 1  # short steps are measured more often
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in ALGORITHMS}
    for turn in range(repeats + 1):
        for name, config in ALGORITHMS.items():
            taken = step.run(config)
            if turn:  # the first one warms up
                turns[name].append(taken)
    totals = {name: [sum(taken.values()) for taken in all_taken] for name, all_taken in turns.items()}
    return asdict(workload) | {
        "tokens": step.tokens,
        "parts": {
            name: {part: statistics.median(t[part] for t in all_taken) for part in all_taken[0]}
            for name, all_taken in turns.items()
        },
        "total_ms": {name: statistics.median(values) for name, values in totals.items()},
        "all_ms": totals,
        "etr_minus_grpo_ms": statistics.median(
            etr - grpo for etr, grpo in zip(totals["etr"], totals["grpo"], strict=True)
        ),
    }


class _Step:
    """The numbers of a step, made once, and the step itself."""

    def __init__(self, workload: Workload, device: torch.device):
        self.device = device
        g = torch.Generator().manual_seed(0)
        shape = (workload.prompts, workload.group)
        self.rewards = (torch.rand(shape, generator=g) < torch.rand(workload.prompts, 1, generator=g)).float()
        self.lengths = torch.randint(1, workload.length + 1, shape, generator=g)
        self.tokens = int(self.lengths.sum())
        sequence = torch.arange(self.lengths.numel()).repeat_interleave(self.lengths.reshape(-1))
        old = -torch.rand(self.tokens, generator=g) * 2
        logp = old + 0.1 * torch.randn(self.tokens, generator=g)
        rollout = old + 0.001 * torch.randn(self.tokens, generator=g)
        columns = [x.to(device) for x in (sequence, logp, old, rollout, torch.rand(self.tokens, generator=g))]
        self.micro_batches = list(zip(*(x.split(workload.micro_batch) for x in columns), strict=True))

    def run(self, config: Algo) -> dict[str, float]:
        """Milliseconds of each part."""
        clock = _Clock(self.device)
        advantages, variance = group_advantages(self.rewards, config.normalize, std_ddof=config.std_ddof)
        bounds = clip_bounds(advantages, variance, self.lengths, config)
        group_metrics(self.rewards, advantages, variance, self.lengths, config, bounds).finalize()
        rate = self.rewards.mean(1, keepdim=True).expand_as(advantages)
        samples = [x.reshape(-1).to(self.device) for x in (advantages, *bounds, rate)]
        count = denominator(config, tokens=self.tokens, sequences=self.lengths.numel())
        clock.lap("groups and bounds")

        sums = []
        for sequence, logp, old, rollout, entropy in self.micro_batches:
            advantage, low, high, pass_rate = (x[sequence] for x in samples)
            inputs = PolicyLossInputs(
                logp=None, old_logp=old, advantages=advantage, mask=torch.ones_like(old), eps_low=low, eps_high=high,
                rollout_logp=rollout, pass_rate=pass_rate, denominator=count,
            )  # fmt: skip
            tokens = prepare(inputs, config).tokens(logp.detach().requires_grad_(), entropy)
            policy_loss(tokens, config, metrics=False)[0].backward()
            clock.lap("loss and gradient")
            with torch.no_grad():  # as the trainer takes them of a fused head's chunks
                sums.append(policy_loss(tokens, config)[1])
            clock.lap("token metrics")
        add_up(sums).finalize()
        clock.lap("token metrics")
        return clock.milliseconds


class _Clock:
    def __init__(self, device: torch.device):
        self.device = device
        self.milliseconds: dict[str, float] = {}
        self._now = time.perf_counter if device.type == "cuda" else time.process_time
        self._last = self._now()

    def lap(self, name: str) -> None:
        """Adds the time since the last lap to `name`."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        now = self._now()
        self.milliseconds[name] = self.milliseconds.get(name, 0.0) + (now - self._last) * 1e3
        self._last = now


def _table(report: dict[str, Any]) -> Table:
    table = Table(title="Objective: milliseconds a step ({clock}, {device}, medians)".format(**report))
    table.add_column("step", no_wrap=True)
    parts = list(report["rows"][0]["parts"]["etr"])
    for heading in ("tokens", "loss", *parts, "total", "more than GRPO"):
        table.add_column(heading, justify="right")
    for row in report["rows"]:
        for name in ALGORITHMS:
            more = f"{row['etr_minus_grpo_ms']:+.2f}" if name == "etr" else ""
            taken = [f"{row['parts'][name][part]:.2f}" for part in parts]
            table.add_row(row["name"], f"{row['tokens']:,}", name, *taken, f"{row['total_ms'][name]:.2f}", more)
    return table
