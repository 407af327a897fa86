"""Makes one measurement of the head, or of the naive way, in a separate process: `python -m ...measure '<json>'`.

It is a separate process, because a peak of memory belongs to a process and because what one variant left in the allocator
or the caches must not help the next.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_patches.policy_head import fused_policy_head, token_logprobs


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is measured: forward and backward of `sum_t w_t exp(logp_t)`, an objective that is separable by token."""

    variant: str
    """naive, compiled, recompute, fused, or fused16 (16-bit sums of the weight's gradient)."""
    tokens: int
    hidden: int
    vocab: int
    repeats: int = 1
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    tp: int = 1
    rank: int = 0
    store: str = ""
    """File by which the ranks of one case find each other."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came out. Seconds are medians over the repeats."""

    seconds: float
    cpu_seconds: float
    """Processor time of this rank, over all its threads."""
    peak_bytes: int
    """Highest memory beyond inputs and gradients."""
    gemm_flops: float
    """Rate of plain matrix products in this very process, on its threads or its GPU, operations a second."""
    checksum: float
    """Norm of the gradient of the hidden states: equal for all variants up to rounding."""


Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def naive_step(hidden: Tensor, weight: Tensor, targets: Tensor, share: Tensor) -> Tensor:
    """The full fp32 log-softmax `[T, V]`, left to autograd. Log-prob alone: no entropy is asked of it."""
    logp = (hidden @ weight.t()).float().log_softmax(-1).gather(1, targets[:, None]).squeeze(1)
    return (share * logp.exp()).sum()


def _step(variant: str, group: dist.ProcessGroup | None) -> Step:
    def recompute(hidden: Tensor, weight: Tensor, targets: Tensor, share: Tensor) -> Tensor:
        logp, _entropy = token_logprobs(hidden, weight, targets, group)
        return (share * logp.exp()).sum()

    def fused(hidden: Tensor, weight: Tensor, targets: Tensor, share: Tensor, fp32_sums: bool = True) -> Tensor:
        def objective(where: slice | Tensor, logp: Tensor, _entropy: Tensor) -> Tensor:
            return share[where] * logp.exp()

        return fused_policy_head(hidden, weight, targets, objective, group, fp32_sums=fp32_sums)[0]

    if variant == "compiled":
        return torch.compile(naive_step)
    steps: dict[str, Step] = {
        "naive": naive_step,
        "recompute": recompute,
        "fused": fused,
        "fused16": partial(fused, fp32_sums=False),
    }
    return steps[variant]


def measure(case: Case) -> Measured:
    """Runs the case in this process. Needs a process that has not run another one, for its peak of memory."""
    torch.set_num_threads(case.threads)
    group = None
    if case.tp > 1:
        dist.init_process_group(
            "gloo",
            init_method=f"file://{case.store}",
            rank=case.rank,
            world_size=case.tp,
            timeout=timedelta(minutes=10),  # a rank that was killed for memory must not keep the other for longer
        )
        group = dist.group.WORLD
    device, dtype = torch.device(case.device), getattr(torch, case.dtype)
    random = torch.Generator().manual_seed(0)
    hidden = torch.randn(case.tokens, case.hidden, generator=random).to(device, dtype).requires_grad_()
    targets = torch.randint(0, case.vocab, (case.tokens,), generator=random).to(device)
    share = (torch.randn(case.tokens, generator=random) / case.tokens).to(device)
    weight = _weight(case, device, dtype).requires_grad_()
    rate = gemm_rate(case, device, dtype)

    step = _step(case.variant, group)
    memory = _CudaPeak() if device.type == "cuda" else _ResidentPeak()
    seconds, cpu_seconds, peaks = [], [], []
    warm_up = 1 if device.type == "cuda" else 0  # kernels are chosen and compiled there in the first call
    for _ in range(warm_up + case.repeats):
        hidden.grad = weight.grad = None
        if group is not None:
            dist.barrier()
        memory.start()
        wall, cpu = time.perf_counter(), time.process_time()
        step(hidden, weight, targets, share).backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - wall)
        cpu_seconds.append(time.process_time() - cpu)
        peaks.append(memory.stop() - sum(x.numel() * x.element_size() for x in (hidden, weight)))
    assert hidden.grad is not None
    checksum = float(torch.linalg.vector_norm(hidden.grad, dtype=torch.float64))
    if group is not None:
        dist.barrier()
        dist.destroy_process_group()
    return Measured(
        seconds=statistics.median(seconds[warm_up:]),
        cpu_seconds=statistics.median(cpu_seconds[warm_up:]),
        peak_bytes=max(peaks[warm_up:]),
        gemm_flops=rate,
        checksum=checksum,
    )


def gemm_rate(case: Case, device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second of `[t, H] @ [H, v]`, in the head's own inner length: median of several, about a second."""
    t, v = (2048, 8192) if device.type == "cpu" else (8192, 16384)
    a, b = torch.randn(t, case.hidden, device=device).to(dtype), torch.randn(v, case.hidden, device=device).to(dtype)
    out = torch.empty(t, v, device=device, dtype=dtype)
    taken = []
    for _ in range(6):
        start = time.perf_counter()
        torch.mm(a, b.t(), out=out)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return 2 * t * v * case.hidden / statistics.median(taken[1:])


def _weight(case: Case, device: torch.device, dtype: torch.dtype) -> Tensor:
    """This rank's rows of one matrix, the same for any number of ranks; made block by block, so that nothing is left behind
    in the allocator."""
    rows, block = case.vocab // case.tp, 4096
    start = case.rank * rows
    weight = torch.empty(rows, case.hidden, device=device, dtype=dtype)
    for number in range(start // block, -(-(start + rows) // block)):
        made = torch.randn(block, case.hidden, generator=torch.Generator().manual_seed(1 + number))
        lo, hi = max(number * block, start), min((number + 1) * block, start + rows)
        weight[lo - start : hi - start] = made[lo - number * block : hi - number * block] * (2 / case.hidden**0.5)
    return weight


class _ResidentPeak:
    """Peak of this process's resident memory over what it held at the start (Linux)."""

    def start(self) -> None:
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM to the present size
        self.before = _status_bytes("VmRSS")

    def stop(self) -> int:
        return _status_bytes("VmHWM") - self.before


class _CudaPeak:
    """Peak of the caching allocator over what was allocated at the start."""

    def start(self) -> None:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        self.before = torch.cuda.memory_allocated()

    def stop(self) -> int:
        return torch.cuda.max_memory_allocated() - self.before


def _status_bytes(key: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key + ":"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Case(**json.loads(sys.argv[1]))))))
