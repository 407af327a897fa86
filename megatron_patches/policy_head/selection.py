"""The choice of a backend for the policy head."""

import logging
import time
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from megatron_patches.policy_head.backend import TorchBackend

log = logging.getLogger(__name__)


def select(device: torch.device, dtype: torch.dtype) -> TorchBackend:
    """Chooses the backend for a device and a compute type.

    On CPU and for fp64 it is torch. On CUDA it is torch or the Triton kernels, whichever is faster on this device
    (measured once per process). It is torch if triton is not installed or its results differ.
    """
    if device.type != "cuda" or dtype != torch.float32 or find_spec("triton") is None:
        return TorchBackend()
    return _faster(torch.device("cuda", device.index if device.index is not None else torch.cuda.current_device()))


@cache
def _faster(device: torch.device) -> TorchBackend:
    """Measures both backends on a tile of the usual size on this device.

    The ranks of a group may choose differently. Log-probs stay bit-equal between them, because each merges the same
    gathered statistics.
    """
    from megatron_patches.policy_head.triton_backend import TritonBackend  # triton is optional

    plain, kernels = TorchBackend(), TritonBackend()
    tile = torch.randn(2048, 8192, device=device)
    try:
        seconds = [_seconds(backend, tile) for backend in (plain, kernels)]
        agree = all(
            torch.allclose(a.float(), b.float(), rtol=1e-2, atol=1e-4)
            for a, b in zip(_both_passes(plain, tile), _both_passes(kernels, tile), strict=True)
        )
    except Exception as error:  # triton compiles here, and a compiler or driver can raise anything
        log.warning("policy head: triton kernels fail on %s (%s); using torch", device, error)
        return plain
    if not agree:
        log.warning("policy head: triton kernels disagree with torch on %s; using torch", device)
    chosen = kernels if agree and seconds[1] < seconds[0] else plain
    log.info("policy head on %s: torch %.2e s, triton %.2e s a tile; using %s", device, *seconds, type(chosen).__name__)
    return chosen


def _both_passes(backend: TorchBackend, tile: Tensor) -> tuple[Tensor, Tensor]:
    """Computes statistics and bf16 gradient of a copy of the tile."""
    logits, t = tile.clone(), tile.shape[0]
    target = torch.arange(t, device=tile.device)
    found = logits.new_empty((4, t))
    backend.statistics(logits, target, True, found)
    lse, entropy = found[0] + found[1].log(), found[1].log() - found[2] / found[1]
    one = torch.ones_like(lse)
    return found, backend.gradient(logits, target, lse, torch.bfloat16, one, one, entropy).to(torch.bfloat16)


def _seconds(backend: TorchBackend, tile: Tensor) -> float:
    """Returns the least of five timings of both passes, after one that compiles, in seconds."""
    taken = []
    for _ in range(6):
        torch.cuda.synchronize(tile.device)
        start = time.perf_counter()
        _both_passes(backend, tile)
        torch.cuda.synchronize(tile.device)
        taken.append(time.perf_counter() - start)
    return min(taken[1:])
