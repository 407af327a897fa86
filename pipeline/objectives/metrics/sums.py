"""Metrics as sums and maxima in two flat vectors: two collectives and one device synchronisation serve all of them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.objectives.metrics.bins import Bins

Number = float | dict[str, list[float]]
"""A named metric: a number, or a histogram `{"edges": [n + 1], "counts": [n]}`."""


@dataclass(frozen=True)
class Field:
    """Describes one entry of `MetricSums.sums` and how `finalize` turns it into a metric."""

    name: str
    per: str = ""
    """Name of the count that divides it. Empty: it is a total. "update": the number of optimizer steps divides it."""
    bins: Bins | None = None
    """Set if the entry is the counts of a histogram."""
    median: str = ""
    """If set, the metric is the histogram's median, under this name, and not the histogram."""
    exp: bool = False
    """The metric is the exponential of the median."""

    @property
    def size(self) -> int:
        return self.bins.count if self.bins else 1


@dataclass(frozen=True, eq=False)
class MetricSums(Mapping[str, Any]):
    """Sums that add up over micro-batches (`+`) and ranks (`all_reduce`); `finalize` turns them into named numbers.

    As a mapping it gives the numbers for the sums so far. Each read synchronises with the device once.
    """

    sums: Tensor
    """fp64 [S]: combined by addition."""
    peaks: Tensor
    """fp64 [M]: combined by maximum; minima are stored negated."""
    fields: tuple[Field, ...]
    """The fields of `sums`, in order. A histogram has several entries. Names without a slash are counts that divide
    others."""
    peak_names: tuple[tuple[str, bool], ...]
    """For each of `peaks`: its name, and whether it is a minimum."""

    @classmethod
    def empty(cls, device: torch.device) -> "MetricSums":
        """Makes an empty sum."""
        nothing = torch.zeros(0, dtype=torch.float64, device=device)
        return cls(nothing, nothing, (), ())

    def __add__(self, other: "MetricSums") -> "MetricSums":
        if (self.fields, self.peak_names) == (other.fields, other.peak_names):
            return replace(self, sums=self.sums + other.sums, peaks=torch.maximum(self.peaks, other.peaks))
        shared = {f.name for f in self.fields} & {f.name for f in other.fields}
        if shared:
            raise ValueError(
                "metrics of different kinds of batches cannot be added: both hold "
                f"{sorted(shared)[0]}, but other fields differ; give all micro-batches the same optional inputs"
            )
        return MetricSums(
            torch.cat([self.sums, other.sums.to(self.sums.device)]),
            torch.cat([self.peaks, other.peaks.to(self.peaks.device)]),
            self.fields + other.fields,
            self.peak_names + other.peak_names,
        )

    def add_counts(self, counts: Mapping[str, float]) -> "MetricSums":
        """With numbers added to entries by name; an entry that these sums do not have is ignored."""
        added: list[float] = []
        for field in self.fields:
            added += [counts.get(field.name, 0.0)] + [0.0] * (field.size - 1)
        return replace(self, sums=self.sums + torch.tensor(added, dtype=torch.float64, device=self.sums.device))

    def all_reduce(self, group: dist.ProcessGroup | None = None) -> "MetricSums":
        """Combines the sums and maxima of the ranks of `group`, with two collectives. Each token must be on one rank
        only."""
        sums, peaks = self.sums.clone(), self.peaks.clone()
        dist.all_reduce(sums, group=group)
        dist.all_reduce(peaks, op=dist.ReduceOp.MAX, group=group)
        return replace(self, sums=sums, peaks=peaks)

    def finalize(self, updates: int = 1) -> dict[str, Number]:
        """Returns named numbers; see the function `finalize`."""
        return finalize(self, updates)

    def __getitem__(self, name: str) -> Number:
        return finalize(self)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(finalize(self))

    def __len__(self) -> int:
        return len(finalize(self))


def finalize(sums: MetricSums, updates: int = 1) -> dict[str, Number]:
    """Turns sums into named numbers (`policy/...`, `clip/...`) and histograms (`hist/<name>`).

    `updates`: the number of optimizer steps in the sums; the loss is divided by it. A mean, minimum or maximum over no
    tokens is left out.
    """
    values = torch.cat([sums.sums, sums.peaks]).tolist()
    columns: dict[str, list[float]] = {}
    start = 0
    for field in sums.fields:
        columns[field.name] = values[start : start + field.size]
        start += field.size
    counts = {name: column[0] for name, column in columns.items()} | {"update": float(updates)}
    named: dict[str, Number] = {}
    for field in sums.fields:
        column = columns[field.name]
        if field.bins:
            if not field.median:
                named[f"hist/{field.name}"] = {"edges": field.bins.edges(), "counts": column}
            elif (median := field.bins.median(column)) is not None:
                named[field.median] = math.exp(median) if field.exp else median
        elif "/" in field.name and not field.per:
            named[field.name] = column[0]
        elif "/" in field.name and counts[field.per]:
            named[field.name] = column[0] / counts[field.per]
    for (name, negated), value in zip(sums.peak_names, values[start:], strict=True):
        if value != -torch.inf:
            named[name] = -value if negated else value
    return named


def add_up(parts: list[MetricSums]) -> MetricSums:
    """Adds at least one part."""
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


class SumsBuilder:
    """Collects entries one by one; `pack` makes MetricSums of them."""

    def __init__(self) -> None:
        self._fields: list[Field] = []
        self._sums: list[Tensor] = []
        self._peak_names: list[tuple[str, bool]] = []
        self._peaks: list[Tensor] = []

    def add(self, field: Field, total: Tensor) -> None:
        """Adds one entry: a scalar, or the counts of a histogram."""
        self._fields.append(field)
        self._sums.append(total.double().reshape(-1))

    def rows(self, names: dict[str, Tensor], per: str) -> None:
        """Adds the sums over several tensors of one shape, with one kernel for all of them."""
        totals = torch.stack([value.double().reshape(-1) for value in names.values()]).sum(-1)
        self._fields += [Field(name, per=per) for name in names]
        self._sums.append(totals)

    def highest(self, name: str, values: Tensor, keep: Tensor) -> None:
        """Adds the maximum of `values` where `keep`."""
        self._peak(name, False, torch.where(keep, values.double(), -torch.inf))

    def lowest(self, name: str, values: Tensor, keep: Tensor) -> None:
        """Adds the minimum of `values` where `keep`."""
        self._peak(name, True, torch.where(keep, -values.double(), -torch.inf))

    def _peak(self, name: str, negated: bool, values: Tensor) -> None:
        self._peak_names.append((name, negated))
        self._peaks.append(values.amax().reshape(1) if values.numel() else values.new_full((1,), -torch.inf))

    def pack(self) -> MetricSums:
        """Makes MetricSums of the entries, in the order in which they were added."""
        sums = torch.cat(self._sums)
        peaks = torch.cat(self._peaks) if self._peaks else sums.new_zeros(0)
        return MetricSums(sums, peaks, tuple(self._fields), tuple(self._peak_names))
