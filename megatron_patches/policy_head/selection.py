"""The choice of a backend for the policy head."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

from megatron_patches.policy_head.backend import TorchBackend

log = logging.getLogger(__name__)


_forced: TorchBackend | None = None


@contextmanager
def forced(backend: TorchBackend) -> Iterator[None]:
    """Makes `select` choose this backend while the block runs, for checks that compare backends."""
    global _forced
    before, _forced = _forced, backend
    try:
        yield
    finally:
        _forced = before


@dataclass(frozen=True)
class Comparison:
    """Both backends on a tile of the usual size, on one device."""

    torch_s: float
    """Seconds of both passes."""
    triton_s: float
    agree: bool
    """Statistics and gradient, that of the entropy included."""
    error: str | None = None
    """Why the Triton kernels do not run."""

    @property
    def use_triton(self) -> bool:
        return self.agree and self.triton_s < self.torch_s


def select(device: torch.device, dtype: torch.dtype) -> TorchBackend:
    """Chooses the backend for a device and a compute type.

    On CPU and for fp64 it is torch. On CUDA it is torch or the Triton kernels, whichever is faster on this device
    (measured once per process). It is torch if triton is not installed or its results differ.
    """
    if _forced is not None:
        return _forced
    if device.type != "cuda" or dtype != torch.float32 or find_spec("triton") is None:
        return TorchBackend()
    found = compare(torch.device("cuda", device.index if device.index is not None else torch.cuda.current_device()))
    if not found.use_triton:
        return TorchBackend()
    from megatron_patches.policy_head.triton_backend import TritonBackend  # triton is optional

    return TritonBackend()


@cache
def compare(device: torch.device) -> Comparison:
    """Measures both backends on this device, once per process; `stage=doctor check=gpu` shows the result.

    The ranks of a group may choose differently. Log-probs stay bit-equal between them, because each merges the same
    gathered statistics.
    """
    from megatron_patches.policy_head.triton_backend import TritonBackend

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
        return Comparison(0.0, 0.0, agree=False, error=f"{type(error).__name__}: {error}")
    if not agree:
        log.warning("policy head: triton kernels disagree with torch on %s; using torch", device)
    log.info("policy head on %s: torch %.2e s, triton %.2e s a tile", device, *seconds)
    return Comparison(torch_s=seconds[0], triton_s=seconds[1], agree=agree)


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
