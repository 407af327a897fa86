"""A device that does not exist: its tensors have shapes and no numbers, and what mixes them with the host's raises.

Host tensors (the CPU's) stay real, as in a real run: batches, lengths and offsets decide shapes. Device tensors are fake ones
on torch's `meta` device under FakeTensorMode, which refuses operators that mix the two as CUDA does.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from megatron_patches.rehearsal.ledger import Ledger, nbytes

aten = torch.ops.aten
NAME = "meta"


class Counted(TorchDispatchMode):
    """Counts what runs under it, on the real device. A rehearsal is compared with this."""

    def __init__(self, ledger: Ledger):
        super().__init__()
        self.ledger = ledger

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.namespace == "c10d":
            self._count_collective(func, args, kwargs)
        else:
            self._count(func, args, kwargs, out)
        return out

    def _count(self, func: Any, args: Any, kwargs: dict, out: Any) -> None:
        made = tensors_of((out,))
        for tensor in made:
            self.ledger.made(tensor)
        self.ledger.operation(func, args, kwargs, out, nbytes(tensors_of((*args, *kwargs.values()))) + nbytes(made))

    def _count_collective(self, func: Any, args: Any, kwargs: dict) -> None:
        name = func._overloadpacket.__name__.strip("_")
        if name in ("barrier", "monitored_barrier"):
            return
        whole = args[1] if "reduce_scatter" in name else args[0]
        self.ledger.collective(name, _group_of(args, kwargs), nbytes(tensors_of((whole,))))


class RehearsedDevice(Counted):
    """Use inside `FakeTensorMode(allow_non_fake_inputs=False)`.

    A number that the host reads from the device is made up: a float is 1, a truth value is true, a whole number is 0. So
    gradients are finite and clipped, and nothing is found wrong.
    """

    def __init__(self, ledger: Ledger, fake: FakeTensorMode, chosen_share: float, on_gpu: bool = True):
        """
        Args:
            chosen_share: share of a mask that `masked_select` takes, because a mask has no numbers; experts get equal shares
                of the tokens.
            on_gpu: False if the device is the CPU, where a copy to the host is the tensor itself.
        """
        super().__init__(ledger)
        self.fake, self.chosen_share, self.on_gpu = fake, chosen_share, on_gpu
        self.host_is_real = True
        """False while a checkpoint is gathered: it puts gigabytes on the host, which are fake as well then."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "prim":  # a fake tensor is asked for its device
            return func(*args, **kwargs)
        tensors = tensors_of((*args, *kwargs.values()))
        fakes = [t for t in tensors if isinstance(t, FakeTensor) or t.device.type == NAME]
        if func.namespace == "c10d":
            self._count_collective(func, args, kwargs)
            on_host = _group_of(args, kwargs).group_name in self.ledger.host_groups
            if any((tensor.device.type == NAME) == on_host for tensor in tensors):
                where = [str(tensor.device) for tensor in tensors]
                raise RuntimeError(f"{func} over {'gloo' if on_host else 'NCCL'} on tensors of {where}")
            return _answer(func, args, kwargs)
        if fakes and func is aten._local_scalar_dense.default:
            self.ledger.wait("a number is read")
            return _number(fakes[0])
        if self.host_is_real:
            done, out = self._host(func, args, kwargs, tensors, fakes)
            if done:
                self._count_host(out)
                return out
        elif func is aten._to_copy.default and _target(kwargs) == "cpu" and any(t.device.type == NAME for t in fakes):
            self.ledger.wait("a tensor is copied to the host")
        if not all(isinstance(tensor, FakeTensor) for tensor in tensors):
            args, kwargs = tree_map(self._fake, (args, kwargs))
        out = self._masked_select(*args) if func is aten.masked_select.default else func(*args, **kwargs)
        self._count(func, args, kwargs, out)
        return out

    def _count(self, func: Any, args: Any, kwargs: dict, out: Any) -> None:
        if all(tensor.device.type == NAME for tensor in tensors_of((out,))):
            super()._count(func, args, kwargs, out)
        elif self.on_gpu or func is not aten._to_copy.default:
            self._count_host(out)

    def _count_host(self, out: Any) -> None:
        for tensor in tensors_of((out,)):
            if tensor.device.type != NAME:
                self.ledger.made_on_host(tensor)

    def _host(self, func: Any, args: Any, kwargs: dict, tensors: list, fakes: list) -> tuple[bool, Any]:
        """(True, result) of what happens on the host, or brings a tensor to it."""
        if fakes and func is aten._to_copy.default and _target(kwargs) == "cpu":
            self.ledger.wait("a tensor is copied to the host")
            known = getattr(fakes[0], "host_values", None)
            with unset_fake_temporarily():
                made = torch.ones(fakes[0].shape, dtype=kwargs.get("dtype") or fakes[0].dtype)
                return True, made if known is None else known.clone()
        if fakes and func is aten.copy_.default and not isinstance(args[0], FakeTensor):
            self.ledger.wait("a tensor is copied to the host")
            return True, args[0]
        on_device = fakes or _target(kwargs) == NAME
        if not on_device:
            with unset_fake_temporarily():
                return True, func(*args, **kwargs)
        moves = func in (aten._to_copy.default, aten.copy_.default)
        if not moves and fakes and any(t.dim() and t.device.type == "cpu" for t in tensors):
            if func.namespace != "aten":  # FakeTensorMode looks at the devices of torch's own operators alone
                raise RuntimeError(f"{func} mixes tensors on {sorted({t.device.type for t in tensors})}")
            # Legal for indices alone: torch then uploads them unasked. FakeTensorMode raises for everything else.
            self.ledger.wait("an index is uploaded")
        return False, None

    def _fake(self, leaf: Any) -> Any:
        real = isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeTensor)
        return self.fake.from_tensor(leaf) if real else leaf

    def _masked_select(self, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return values.new_empty(round(mask.numel() * self.chosen_share))


def tensors_of(values: tuple) -> list[torch.Tensor]:
    """The tensors among an operator's arguments or results, which nest one level deep; torch's own walk takes ten times as
    long."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += tensors_of(tuple(value))
    return found


def _target(kwargs: dict) -> str | None:
    device = kwargs.get("device")
    return None if device is None else torch.device(device).type


def _number(tensor: torch.Tensor) -> float | int | bool:
    if tensor.dtype == torch.bool:
        return True
    return 1.0 if tensor.is_floating_point() else 0


def _group_of(args: Any, kwargs: dict) -> Any:
    for leaf in tree_leaves((args, kwargs)):
        if isinstance(leaf, torch.ScriptObject) and "ProcessGroup" in str(leaf._type()):
            return dist.ProcessGroup.unbox(leaf)
    return None


def _answer(func: Any, args: Any, kwargs: dict) -> Any:
    """The fake process group's answer. It is asked with one-element host tensors in the ratio that the operator wants,
    because FakeTensorMode does not know all of c10d's operators."""
    size, name = _group_of(args, kwargs).size(), func.name()
    numbers = (size, 1) if "allgather" in name else (1, size) if "reduce_scatter" in name else (1, 1)
    if "alltoall_base" in name:
        return _answer_all_to_all(func, args, kwargs, size)

    def small(tree: Any, count: int) -> Any:
        return tree_map(
            lambda leaf: torch.zeros(count, dtype=leaf.dtype) if isinstance(leaf, torch.Tensor) else leaf, tree
        )

    with unset_fake_temporarily():
        return func(*(small(arg, numbers[min(i, 1)]) for i, arg in enumerate(args)), **small(kwargs, 1))


def _answer_all_to_all(func: Any, args: Any, kwargs: dict, size: int) -> Any:
    with unset_fake_temporarily():
        output, given = (torch.zeros(size, dtype=tensor.dtype) for tensor in args[:2])
        return func(output, given, args[2], [], [], *args[5:], **kwargs)
