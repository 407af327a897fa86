"""Keys and values of the rows in flight: one slab [layers, slots, kv heads, 2, positions, d], rows always at its front.

A head's keys lie end to end and its values behind them, so that attention reads two streams: with keys and values in turn
a CPU takes 1.5 times as long at 200 positions and 2.5 times at 600.

Rows in flight fill slots 0..R-1. Where a row ends in the middle, the last one moves into its slot, so that every
operation runs on a plain slice and no dead row is ever computed.
"""

import math

import numpy as np
import torch


class Cache:
    """Room for `slots` rows of up to `length` positions."""

    def __init__(
        self, layers: int, slots: int, heads: int, length: int, d: int, dtype: torch.dtype, device: torch.device
    ):
        self.slots, self.length, self.heads = slots, length, heads
        self.kv = _zeros((layers, slots, heads, 2, length, d), dtype, device)
        self._flat = self.kv.view(layers, slots * heads * 2 * length, d)
        self._starts = torch.arange(slots * heads * 2, device=device).view(slots, heads * 2) * length
        self._range = torch.arange(length, device=device)
        self._zero = torch.zeros((), dtype=dtype, device=device)
        self._never = torch.full((), float("-inf"), dtype=dtype, device=device)

    def places(self, positions: torch.Tensor) -> torch.Tensor:
        """Where rows 0..R-1 write at `positions` int64 [R]: indices for `write`, int64 [R * heads * 2]."""
        return (self._starts[: positions.shape[0]] + positions[:, None]).flatten()

    def write(self, layer: int, places: torch.Tensor, kv: torch.Tensor) -> None:
        """kv [R, heads, 2, d] into the slab."""
        self._flat[layer].index_copy_(0, places, kv.reshape(-1, kv.shape[-1]))

    def read(self, rows: int, longest: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Each layer's keys and values of the first `rows` rows up to position `longest`, views [rows, heads, longest, d].
        They show what is written later, too."""
        keys, values = self.kv[:, :rows, :, :, :longest].unbind(3)
        return list(zip(keys.unbind(0), values.unbind(0), strict=True))

    def bias(self, positions: torch.Tensor, longest: int) -> torch.Tensor:
        """[R, 1, 1, longest]: 0 up to the row's own position, -inf behind it."""
        seen = self._range[:longest] <= positions[:, None]
        return torch.where(seen, self._zero, self._never)[:, None, None]

    def append(self, rows: int, stash: torch.Tensor, source: torch.Tensor) -> None:
        """Rows `rows`, `rows + 1`, ... become copies of rows `source` int64 [k] of a stash
        [layers, B, heads, 2, L, d]."""
        length = stash.shape[4]
        for layer, prompts in enumerate(stash):
            self.kv[layer, rows : rows + source.shape[0], :, :, :length] = prompts[source]

    def move(self, source: torch.Tensor, target: torch.Tensor, longest: int) -> None:
        """Rows `source` int64 [k] into the slots `target`, up to position `longest`."""
        for layer in self.kv:
            layer[target, :, :, :longest] = layer[source, :, :, :longest]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Zeros, because a position that is masked still enters the sums with weight 0, and 0 * NaN is NaN. On CPU numpy's
    zeros are pages that become real memory only when a row reaches them; torch's would all be touched at once."""
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)
