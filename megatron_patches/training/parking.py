"""Parts of the actor that leave the device while the engine generates (`rl.offload`)."""

from collections.abc import Iterable
from typing import Any

import torch

from megatron_patches.training.optimizer import buffers_of, tensors_of


class Parking:
    """Device memory that is given back for a while.

    A storage is emptied in place, so every view of it (parameters, buckets, optimizer shards) is valid again once it is filled.
    Megatron-core 0.16.1 has the same for its buffers (param_and_grad_buffer.py:964); its optimizer's tensors it replaces by
    others (optimizer.py:344), and of an fp32 model it would move the weights with them, whose buffer they share.
    """

    def __init__(self) -> None:
        self._away: dict[str, list[tuple[torch.UntypedStorage, int, torch.Tensor | None]]] = {}
        """Part -> storages, their bytes, and what they held: uint8 on the host, pinned for a GPU; None: zeros."""

    def leave(self, part: str, storages: Iterable[torch.UntypedStorage], keeps: bool) -> None:
        """Empties `storages`, with a copy on the host if `keeps`. Does nothing if the part is away."""
        if part in self._away:
            return
        rows: list[tuple[torch.UntypedStorage, int, torch.Tensor | None]] = []
        for storage in storages:
            held = None
            if keeps:
                held = torch.empty(storage.nbytes(), dtype=torch.uint8, pin_memory=storage.device.type == "cuda")
                held.copy_(_bytes(storage))
            rows.append((storage, storage.nbytes(), held))
            storage.resize_(0)
        self._away[part] = rows

    def fetch(self, part: str) -> None:
        """Fills the part's storages again. Does nothing if the part is there."""
        for storage, size, held in self._away.pop(part, []):
            storage.resize_(size)
            if held is None:
                _bytes(storage).zero_()
            else:
                _bytes(storage).copy_(held)


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """The whole storage as uint8."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def storages_of(actor: Any, part: str) -> list[torch.UntypedStorage]:
    """What `part` (weights, gradients or optimizer) of the actor holds on its device, each storage once. What belongs to two
    parts belongs to the first of them."""
    weights = [p.data for chunk in actor.chunks for p in chunk.parameters()]
    parts = {
        "weights": [*weights, *(b.param_data for b in buffers_of(actor.chunks) if b.param_data is not None)],
        "gradients": [buffer.grad_data for buffer in buffers_of(actor.chunks)],
        "optimizer": list(tensors_of(actor.optimizer)),
    }
    seen: set[int] = set()
    found: dict[str, list[torch.UntypedStorage]] = {}
    for name, tensors in parts.items():
        found[name] = []
        for tensor in tensors:
            storage = tensor.untyped_storage()
            if tensor.device.type == actor.device.type and storage._cdata not in seen:
                seen.add(storage._cdata)
                found[name].append(storage)
    return found[part]
