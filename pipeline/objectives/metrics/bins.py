"""Histograms with fixed edges, so that the counts of all ranks add up and medians can be read from them."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Bins:
    """`count` bins of equal width between `low` and `high` on the scale of `transform`. Values outside count in the
    first or last bin.

    transform: "linear" x; "log" log10(x), for x > 0; "signed_log" sign(x) * log10(1 + |x| / 1e-6), which is fine near 0
    and coarse far from it, on both sides.
    """

    low: float
    high: float
    count: int
    transform: str = "linear"

    def counts(self, values: Tensor, weight: Tensor) -> Tensor:
        """Sums `weight` in each bin: fp64 [count]. Both tensors have one shape. Nothing synchronises the device."""
        first, last = self._scaled(self.low), self._scaled(self.high)
        place = (self._transformed(values.double()) - first) * (self.count / (last - first))
        index = place.nan_to_num(0.0).clamp(0, self.count - 1).long()
        zeros = torch.zeros(self.count, dtype=torch.float64, device=values.device)
        return zeros.index_add(0, index.reshape(-1), weight.double().reshape(-1))

    def edges(self) -> list[float]:
        """The `count + 1` edges."""
        first, last = self._scaled(self.low), self._scaled(self.high)
        inner = [self._inverse(first + (last - first) * i / self.count) for i in range(1, self.count)]
        return [self.low, *inner, self.high]

    def median(self, counts: list[float]) -> float | None:
        """Reads the median, interpolated within its bin on the bins' scale; None if all counts are 0."""
        total, below = sum(counts), 0.0
        if not total:
            return None
        first, width = self._scaled(self.low), (self._scaled(self.high) - self._scaled(self.low)) / self.count
        for i, here in enumerate(counts):
            if below + here >= total / 2:
                return self._inverse(first + width * (i + (total / 2 - below) / here))
            below += here
        raise AssertionError("counts are negative")

    def _transformed(self, x: Tensor) -> Tensor:
        if self.transform == "log":
            return x.clamp(min=self.low).log10()
        if self.transform == "signed_log":
            return x.sign() * torch.log1p(x.abs() * 1e6) / math.log(10)
        return x

    def _scaled(self, x: float) -> float:
        if self.transform == "log":
            return math.log10(x)
        if self.transform == "signed_log":
            return math.copysign(math.log1p(abs(x) * 1e6) / math.log(10), x)
        return x

    def _inverse(self, y: float) -> float:
        if self.transform == "log":
            return 10.0**y
        if self.transform == "signed_log":
            return math.copysign((10.0 ** abs(y) - 1) * 1e-6, y)
        return y
