"""Whether numbers are finite, on every rank alike, and which tensor is the first that is not."""

from collections.abc import Iterable

import torch
import torch.distributed as dist

from megatron_patches import parallel


def is_finite(tensor: torch.Tensor) -> bool:
    """False if any entry is NaN or infinite. Integer tensors are finite."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    # The extremes of a tensor with NaN are NaN: two reductions, no mask of the tensor's size.
    low, high = torch.aminmax(tensor.detach())
    return bool(torch.isfinite(low) & torch.isfinite(high))


def first_nonfinite(tensors: Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """The name of the first tensor of this rank that is not finite."""
    return next((name for name, tensor in tensors if not is_finite(tensor)), None)


def anywhere(found: bool) -> bool:
    """Whether `found` is true on any rank of the world (a collective), so that all ranks decide alike."""
    if not dist.is_initialized():
        return found
    flag = torch.tensor([int(found)], dtype=torch.int32, device=parallel.device())
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag.item())


def first_on_any_rank(name: str | None) -> tuple[int, str] | None:
    """Rank and name of the lowest rank that gives a name, on all ranks (a collective)."""
    if not dist.is_initialized():
        return (0, name) if name else None
    names: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(names, name)
    return next(((rank, name) for rank, name in enumerate(names) if name), None)


def named_weights(chunks: list) -> Iterable[tuple[str, torch.Tensor]]:
    """The weights of this rank's model chunks by name."""
    for chunk in chunks:
        for name, parameter in chunk.named_parameters():
            yield name.removeprefix("module.").removeprefix("module."), parameter.data
