"""Matrix products of generation with the model's own weights, packed on a CPU.

A decode step multiplies a few rows with every weight, and a CPU's library spends a third of that on bringing the weight
into the order that its kernel reads. oneDNN takes weights that are in that order already: on one core 74 instead of 50
GFLOP/s with 32 rows of the bench's model, 34 instead of 21 with 8 rows. It also gives a row the same bits whatever rows
are beside it.

Packed weights are a copy, so there is one only from the first product to `forget`, only in fp32 on a CPU, and only of models
of at most `MOST_BYTES` a rank. Everything else multiplies with the module's parameter itself. `refresh` finds copies of weights
that have changed since by their sums: reading the weights once costs less than a token of one row.
"""

import torch
import torch.nn.functional as F

MOST_BYTES = 512 << 20
"""Weights of a rank that are still packed: packing takes a millisecond a MiB, which large batches of small models earn back."""
ROWS = 64
"""The number of rows that the packed order is chosen for; any other number works with it."""


class Products:
    """x @ weight.T for weights that stay as they are until `forget`."""

    def __init__(self, device: torch.device, dtype: torch.dtype, weight_bytes: int):
        usable = device.type == "cpu" and dtype == torch.float32 and torch.backends.mkldnn.is_available()
        self.packs = usable and weight_bytes <= MOST_BYTES
        self._packed: dict[int, tuple[torch.Tensor, torch.Tensor, float]] = {}
        """By the parameter's address, which is its own as long as the model lives: packed, the parameter, its sum then."""

    def refresh(self) -> None:
        """Pack those weights anew, when they are next used, that are not as they were when they were packed."""
        for address, (_, weight, total) in list(self._packed.items()):
            if float(weight.sum()) != total:
                del self._packed[address]

    def forget(self) -> None:
        """Weights change: pack each anew when it is next used."""
        self._packed.clear()

    def __call__(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        """x [T, k] @ weight [n, k].T (+ bias [n]) -> [T, n]."""
        if not self.packs:
            return F.linear(x, weight, bias)
        return torch.ops.mkldnn._linear_pointwise(x, self._pack(weight), bias, "none", [], "")

    def add(self, x: torch.Tensor, part: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """x [T, n] + part [T, k] @ weight [n, k].T."""
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
