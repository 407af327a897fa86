"""The key/value cache: one tensor [layers, slots, kv heads, 2, positions, d] whose first slots hold the live rows.

All keys of a head are contiguous, and then all its values, so attention reads two streams. With keys and values
interleaved a CPU needs 1.5 times as long at 200 positions and 2.5 times at 600.

Live rows fill slots 0..R-1. When a row in the middle ends, the last row moves into its slot. Every operation then works
on a plain slice, and no dead row is computed.
"""

import math

import numpy as np
import torch


class Cache:
    """A cache for `slots` rows of up to `length` positions, in the dtype of the keys."""

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
        """Computes the indices for `write` of rows 0..R-1 at `positions`: int64 [R] -> int64 [R * heads * 2]."""
        return (self._starts[: positions.shape[0]] + positions[:, None]).flatten()

    def write(self, layer: int, places: torch.Tensor, kv: torch.Tensor) -> None:
        """Writes kv [R, heads, 2, d] of one layer to the indices `places`."""
        self._flat[layer].index_copy_(0, places, kv.reshape(-1, kv.shape[-1]))

    def read(self, rows: int, longest: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Returns each layer's keys and values of the first `rows` rows and `longest` positions.

        They are views [rows, heads, longest, d], which also show later writes.
        """
        keys, values = self.kv[:, :rows, :, :, :longest].unbind(3)
        return list(zip(keys.unbind(0), values.unbind(0), strict=True))

    def bias(self, positions: torch.Tensor, longest: int) -> torch.Tensor:
        """Makes the attention bias [R, 1, 1, longest]: 0 up to the row's own position, -inf after it."""
        seen = self._range[:longest] <= positions[:, None]
        return torch.where(seen, self._zero, self._never)[:, None, None]

    def append(self, rows: int, stash: torch.Tensor, source: torch.Tensor) -> None:
        """Copies rows `source` int64 [k] of a stash [layers, B, heads, 2, L, d] into slots `rows`, `rows + 1`, ..."""
        length = stash.shape[4]
        for layer, prompts in enumerate(stash):
            self.kv[layer, rows : rows + source.shape[0], :, :, :length] = prompts[source]

    def move(self, source: torch.Tensor, target: torch.Tensor, longest: int) -> None:
        """Copies rows `source` int64 [k] into slots `target` int64 [k], for the first `longest` positions."""
        for layer in self.kv:
            layer[target, :, :, :longest] = layer[source, :, :, :longest]


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Makes zeros, because a masked position still enters the sums with weight 0, and 0 * NaN is NaN.

    On CPU numpy's zeros become real memory only when a row reaches them; torch would touch all pages at once.
    """
    if device.type != "cpu":
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(math.prod(shape) * dtype.itemsize, dtype=np.uint8)).view(dtype).view(shape)
