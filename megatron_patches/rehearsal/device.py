"""A device that does not exist: its tensors have shapes and no numbers, and what mixes them with the host's raises.

Host tensors (the CPU's) stay real, as in a real run: batches, lengths and offsets decide shapes. Device tensors are on torch's
`meta` device. Operators that are given both go through FakeTensorMode, which refuses what CUDA refuses; to send all through it
would take three times as long.
"""

import contextlib
from typing import Any

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
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
    """Use with `with`. Tensors of the device are `meta` tensors, and torch's own rules for them make shapes and aliases.

    A number that the host reads from the device is made up: a float is 1, a truth value is true, a whole number is 0. So
    gradients are finite and clipped, and nothing is found wrong.
    """

    def __init__(self, ledger: Ledger, chosen_share: float, on_gpu: bool = True):
        """
        Args:
            chosen_share: share of a mask that `masked_select` takes, because a mask has no numbers; experts get equal shares
                of the tokens.
            on_gpu: False if the device is the CPU, where a copy to the host is the tensor itself.
        """
        super().__init__(ledger)
        self.chosen_share, self.on_gpu = chosen_share, on_gpu
        self.fake = FakeTensorMode(allow_non_fake_inputs=False)
        """Holds what is on the host without numbers, and raises where an operator mixes devices as CUDA does."""
        self.host_is_real = True
        """False while a checkpoint is gathered: it puts gigabytes on the host, which are fake then."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch's compiler is not used here, and keeping it out of every operator costs as much as the operator

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = tensors_of((*args, *kwargs.values()))
        if func.namespace == "c10d":
            return self._exchange(func, args, kwargs, tensors)
        on_device = [tensor.device.type == NAME for tensor in tensors]
        target = _target(kwargs)
        if not any(on_device) and target != NAME:
            return self._on_host(func, args, kwargs, tensors)
        if func is aten._local_scalar_dense.default:
            self.ledger.wait("a number is read")
            return _number(tensors[0])
        if func is aten.copy_.default or (func is aten._to_copy.default and not all(on_device)):
            out = self._upload(func, args, kwargs, on_device)
        elif func is aten._to_copy.default and target == "cpu":
            out = self._download(args[0], kwargs)
        else:
            if not all(on_device):
                args, kwargs = self._one_device(func, args, kwargs, tensors)
            out = self._masked_select(*args) if func is aten.masked_select.default else func(*args, **kwargs)
        self._count(func, args, kwargs, out)
        return out

    def _exchange(self, func: Any, args: Any, kwargs: dict, tensors: list[torch.Tensor]) -> Any:
        self._count_collective(func, args, kwargs)
        over_gloo = _group_of(args, kwargs).group_name in self.ledger.host_groups
        # torch makes the tensor of a barrier by itself, on the CPU.
        if "barrier" not in func.name() and any((tensor.device.type == NAME) == over_gloo for tensor in tensors):
            where = [str(tensor.device) for tensor in tensors]
            raise RuntimeError(f"{func} over {'gloo' if over_gloo else 'NCCL'} on tensors of {where}")
        return _answer(func, args, kwargs)

    def _on_host(self, func: Any, args: Any, kwargs: dict, tensors: list[torch.Tensor]) -> Any:
        is_real = self.host_is_real and not any(isinstance(tensor, FakeTensor) for tensor in tensors)
        if not is_real:
            args, kwargs = tree_map(self._without_numbers, (args, kwargs))
        with contextlib.nullcontext() if is_real else self.fake:
            out = func(*args, **kwargs)
        self._count_host(out)
        return out

    def _upload(self, func: Any, args: Any, kwargs: dict, on_device: list[bool]) -> torch.Tensor:
        """A copy into a tensor that is there, in whichever direction, or a new tensor on the device."""
        if func is aten.copy_.default:
            if not on_device[0]:
                self.ledger.wait("a tensor is copied to the host")
            return args[0]
        given = args[0]
        if isinstance(given, FakeTensor):  # empty_like of a FakeTensor is a FakeTensor too
            made = torch.empty_strided(given.shape, given.stride(), dtype=given.dtype, device=NAME)
        else:
            made = torch.empty_like(given, device=NAME)
        return made.to(kwargs.get("dtype") or given.dtype)

    def _download(self, given: torch.Tensor, kwargs: dict) -> torch.Tensor:
        self.ledger.wait("a tensor is copied to the host")
        known = getattr(given, "host_values", None)
        if known is not None and self.host_is_real:
            return known.clone()
        with contextlib.nullcontext() if self.host_is_real else self.fake:
            return torch.ones(given.shape, dtype=kwargs.get("dtype") or given.dtype)

    def _one_device(self, func: Any, args: Any, kwargs: dict, tensors: list[torch.Tensor]) -> tuple[Any, dict]:
        """Arguments on the device, of an operator that was given tensors of both; raises if CUDA would."""
        if any(tensor.dim() and tensor.device.type != NAME for tensor in tensors):
            if func.namespace != "aten":  # FakeTensorMode looks at the devices of torch's own operators alone
                raise RuntimeError(f"{func} mixes tensors on {sorted({t.device.type for t in tensors})}")
            checked, options = tree_map(self._without_numbers, (args, kwargs))
            with self.fake:
                func(*checked, **options)
            # Legal for indices alone: torch then uploads them unasked.
            self.ledger.wait("an index is uploaded")

        def placed(leaf: Any) -> Any:
            is_index = isinstance(leaf, torch.Tensor) and leaf.dim() and leaf.device.type != NAME
            return torch.empty(leaf.shape, dtype=leaf.dtype, device=NAME) if is_index else leaf

        return tree_map(placed, (args, kwargs))

    def _count(self, func: Any, args: Any, kwargs: dict, out: Any) -> None:
        if all(tensor.device.type == NAME for tensor in tensors_of((out,))):
            super()._count(func, args, kwargs, out)
        elif self.on_gpu or func is not aten._to_copy.default:
            self._count_host(out)

    def _count_host(self, out: Any) -> None:
        for tensor in tensors_of((out,)):
            if tensor.device.type != NAME:
                self.ledger.made_on_host(tensor)

    def _without_numbers(self, leaf: Any) -> Any:
        is_other = isinstance(leaf, torch.Tensor) and not isinstance(leaf, FakeTensor)
        return self.fake.from_tensor(leaf) if is_other else leaf

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

    return func(*(small(arg, numbers[min(i, 1)]) for i, arg in enumerate(args)), **small(kwargs, 1))


def _answer_all_to_all(func: Any, args: Any, kwargs: dict, size: int) -> Any:
    output, given = (torch.zeros(size, dtype=tensor.dtype) for tensor in args[:2])
    return func(output, given, args[2], [], [], *args[5:], **kwargs)
