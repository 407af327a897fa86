"""Matrix products for generation with the model's own weights, which are packed on a CPU.

A decode step multiplies a few rows with every weight. A CPU library spends a third of that time on reordering the
weight for its kernel. oneDNN accepts weights in that order: on one core 74 instead of 50 GFLOP/s with 32 rows of the
benchmark's model, and 34 instead of 21 with 8 rows. A row also gets the same bits for any other rows in the batch.

A packed weight is a copy. It exists from the first product to `forget`, only in fp32 on a CPU, and only for models of
at most `MOST_BYTES` per rank. All other products use the module's parameter. `refresh` compares sums to find copies of
weights that have changed; reading the weights once costs less than one token of one row.
"""

import torch
import torch.nn.functional as F

MOST_BYTES = 512 << 20
"""Largest size of a rank's weights that are packed. Packing takes 1 ms per MiB, which pays for small models."""
ROWS = 64
"""Number of rows that the packed order is optimised for; it works for any number."""


class Products:
    """Computes x @ weight.T, for weights that do not change before `forget` or `refresh`."""

    def __init__(self, device: torch.device, dtype: torch.dtype, weight_bytes: int):
        usable = device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available()
        self.packs = usable and weight_bytes <= MOST_BYTES
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
