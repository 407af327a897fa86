"""Matrix products for generation with the model's own weights, which are packed on a CPU.

A decode step multiplies a few rows with every weight. A CPU library spends a third of that time on reordering the
weight for its kernel. oneDNN accepts weights in that order: on one core 74 instead of 50 GFLOP/s with 32 rows of the
benchmark's model, and 34 instead of 21 with 8 rows. A row also gets the same bits for any other rows in the batch.

A packed weight is a copy. It exists from the first product to `forget`, only in fp32 on a CPU, and only where all ranks'
copies fit in a share of the machine's memory. All other products use the module's parameter. `refresh` compares sums to
find copies of weights that have changed; reading the weights once costs less than one token of one row.
"""

import os

import psutil
import torch
import torch.nn.functional as F

ALWAYS_BYTES = 512 << 20
"""Weights of a rank up to this size are packed on any machine."""
MEMORY_SHARE = 0.125
"""Larger ones are packed if the copies of all ranks of a node take at most this share of its memory. Of all memory, not of
what is free at the moment: packed products round differently, and a continued run must compute what it would have."""
ROWS = 64
"""Number of rows that the packed order is optimised for; it works for any number."""


class Products:
    """Computes x @ weight.T, for weights that do not change before `forget` or `refresh`."""

    def __init__(self, device: torch.device, dtype: torch.dtype, weight_bytes: int):
        usable = device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available()
        ranks, memory = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), psutil.virtual_memory().total
        fits = weight_bytes <= ALWAYS_BYTES or ranks * weight_bytes <= MEMORY_SHARE * memory
        self.packs = usable and fits
        self.why_not = "" if fits or not usable else _too_large(weight_bytes, ranks, memory)
        """For the user, where only memory stands in the way."""
        self._packed: dict[int, tuple[torch.Tensor, torch.Tensor, float]] = {}
        """Parameter's address -> packed weight, parameter, its sum when it was packed. Addresses are unique while the
        model exists."""

    def refresh(self) -> None:
        """Discards packed weights whose parameter has changed; the next use packs them again."""
        for address, (_, weight, total) in list(self._packed.items()):
            if float(weight.sum()) != total:
                del self._packed[address]

    def forget(self) -> None:
        """Discards all packed weights; the next use packs them again."""
        self._packed.clear()

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """Computes x [T, k] @ weight [n, k].T (+ bias [n]) -> [T, n], in the dtype of x."""
        if not self.packs:
            return F.linear(x, weight, bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._pack(weight), bias, "none", [], "")

    def add(self, x: torch.Tensor, part: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Computes x [T, n] + part [T, k] @ weight [n, k].T."""
        if not self.packs:
            return torch.addmm(x, part, weight.t())
        return torch.ops.mkldnn._linear_pointwise.binary(part, x, self._pack(weight), None, "add")

    def _pack(self, weight: torch.Tensor) -> torch.Tensor:
        kept = self._packed.get(weight.data_ptr())
        if kept is None:
            weight = weight.detach()
            kept = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS), weight, float(weight.sum())
            self._packed[weight.data_ptr()] = kept
        return kept[0]


def _too_large(weight_bytes: int, ranks: int, memory: int) -> str:
    need, have = ranks * weight_bytes / 2**30, memory / 2**30
    return (
        "native engine: weights are not packed for the processor, which would make generation up to a quarter faster: copies "
        f"for {ranks} ranks take {need:.1f} GiB, more than {MEMORY_SHARE:.1%} of this machine's {have:.0f} GiB"
    )
