"""Memory of a piece of code: the tensors that live while it runs, and what the process holds at most."""

import re
import weakref
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """`with LiveBytes() as live:` counts the storages made inside; `live.peak` is the largest sum of those alive at once.

    Counted are tensors that operators return, to the byte; not what an operator needs while it runs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        before = {_address(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor) and _address(leaf) not in before | self._known:
                self._made(leaf.untyped_storage())
        return result

    def _made(self, storage: torch.UntypedStorage) -> None:
        address, size = storage._cdata, storage.nbytes()
        self._known.add(address)
        self.now += size
        self.peak = max(self.peak, self.now)

        def gone() -> None:
            self._known.discard(address)
            self.now -= size

        weakref.finalize(storage, gone)


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage()._cdata


def resident_bytes() -> int:
    """What the process holds now."""
    return _status("VmRSS")


def reset_resident_peak() -> None:
    """Begin anew to look for `resident_peak` (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_peak() -> int:
    """What the process has held at most since the last reset."""
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024
