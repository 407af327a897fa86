"""Memory of a piece of code: the tensors alive while it runs, and the peak of the process."""

import re
import weakref
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """`with LiveBytes() as live:` counts the storages made inside; `live.peak` is the largest sum of those alive at
    once.

    It counts tensors that operators return, to the byte. It does not count the temporary memory of an operator.
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
    """Returns the resident memory of the process, in bytes."""
    return _status("VmRSS")


def reset_resident_peak() -> None:
    """Resets `resident_peak` (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def resident_peak() -> int:
    """Returns the peak of resident memory since the last reset, in bytes."""
    return _status("VmHWM")


def _status(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024
