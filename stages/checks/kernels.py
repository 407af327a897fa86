"""Rungs that check single computations against fp64 or the CPU: attention, policy head, matrix products, objective."""

import contextlib
import math
from collections.abc import Iterator
from importlib.util import find_spec
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_patches.model.attention import HALF, PackedRows, SdpaCoreAttention
from megatron_patches.policy_head import fused_policy_head, selection, token_logprobs
from megatron_patches.policy_head.backend import TorchBackend, _addmm
from pipeline.objectives import PolicyLossInputs, policy_loss
from pipeline.settings import Algo
from pipeline.settings.algo import LOSSES
from stages.checks.ladder import Found, NotHere

ROUNDING = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
"""Largest relative error of results whose inputs, or whose gradients' operands, have this type."""
SPAN = 2**31
"""Elements that a signed 32-bit index can count."""


class _Alone:
    """A context-parallel group of one."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


def attention(
    device: torch.device, lengths: list[int], heads: int, groups: int, width: int, dtype: torch.dtype
) -> Found:
    """Packed attention, forward and gradient, against SDPA sequence by sequence in fp32. On CUDA the host must not wait."""
    config = SimpleNamespace(attention_dropout=0.0, kv_channels=width)
    core = SdpaCoreAttention(config, 1, None, None, pg_collection=SimpleNamespace(cp=_Alone()))
    rows = PackedRows.of(lengths).to(device)
    inputs = [
        _random((sum(lengths), n, width), dtype, device, seed).requires_grad_()
        for seed, n in enumerate((heads, groups, groups))
    ]
    weight = _random((sum(lengths), heads * width), dtype, device, 3)

    def run() -> list[Tensor]:
        out = core(*inputs, None, packed_seq_params=rows)
        return [out, *torch.autograd.grad(out, inputs, weight)]

    run()  # kernels are loaded and memory is taken, which may wait
    with no_waits(device):
        found = run()
    exact = [x.detach().float().requires_grad_() for x in inputs]
    parts = zip(*(x.split(lengths) for x in exact), strict=True)
    out = torch.cat([_causal(*part) for part in parts]).flatten(1)
    expected = [out, *torch.autograd.grad(out, exact, weight.float())]
    error = max(_relative(a, b) for a, b in zip(found, expected, strict=True))
    kernel = "variable-length kernel" if device.type == "cuda" and dtype in HALF else "SDPA by sequence"
    asked = f"output and gradients within {ROUNDING[dtype]:g}" + (", no host wait" if device.type == "cuda" else "")
    return Found(asked, f"{error:.1e} ({kernel})", error < ROUNDING[dtype])


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[t, n, d] of one sequence."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    repeats = q.shape[1] // k.shape[1]
    k, v = (x.repeat_interleave(repeats, 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0].transpose(0, 1)


@contextlib.contextmanager
def no_waits(device: torch.device) -> Iterator[None]:
    """Any wait of the host for the device raises while this lasts (CUDA)."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def backend_choice(device: torch.device) -> Found:
    """The policy head's own comparison of its two backends, which is made at the first use on a device."""
    if device.type != "cuda" or find_spec("triton") is None:
        raise NotHere("Triton kernels need CUDA and the package triton")
    found = selection.compare(torch.device("cuda", torch.cuda.current_device()))
    got = found.error or (
        f"{'triton' if found.use_triton else 'torch'} is used: torch {found.torch_s * 1e3:.2f} ms, triton"
        f" {found.triton_s * 1e3:.2f} ms a tile; {'they agree' if found.agree else 'they DISAGREE'}"
    )
    return Found("triton compiles and agrees with torch, entropy gradient included", got, found.agree)


def head(device: torch.device, tokens: int, hidden: int, vocab: int, dtype: torch.dtype, backend: str) -> Found:
    """Log-prob, entropy and the gradients of both, recomputed and fused, against a full log-softmax in fp64."""
    x = _random((tokens, hidden), dtype, device, 0).requires_grad_()
    weight = (_random((vocab, hidden), dtype, device, 1) * (2 / math.sqrt(hidden))).requires_grad_()
    targets = torch.randint(0, vocab, (tokens,), generator=torch.Generator().manual_seed(2)).to(device)
    by_logp, by_entropy = (_random((tokens,), torch.float32, device, seed) for seed in (3, 4))

    def objective(where, logp: Tensor, entropy: Tensor) -> Tensor:
        return by_logp[where] * logp + by_entropy[where] * entropy

    logp, entropy, *gradients = _exact_head(x, weight, targets, by_logp, by_entropy)
    errors, worst = {}, 0.0
    with selection.forced(_backend(device, backend)):
        for mode in ("recompute", "fused"):
            if mode == "fused":
                loss, found_logp, found_entropy = fused_policy_head(x, weight, targets, objective)
            else:
                found_logp, found_entropy = token_logprobs(x, weight, targets, entropy_grad=True)
                loss = objective(slice(None), found_logp, found_entropy).sum()
            found = torch.autograd.grad(loss, (x, weight))
            values = max(_largest(found_logp, logp), _largest(found_entropy, entropy))
            slopes = max(_relative(a, b) for a, b in zip(found, gradients, strict=True))
            errors[mode] = f"{mode} {values:.1e} and {slopes:.1e}"
            worst = max(worst, values / 1e-3, slopes / ROUNDING[dtype])
            del found, loss
    return Found(
        f"log-probs and entropies within 1e-3, gradients within {ROUNDING[dtype]:g}",
        "; ".join(errors.values()),
        worst < 1,
    )


def _exact_head(x: Tensor, weight: Tensor, targets: Tensor, by_logp: Tensor, by_entropy: Tensor) -> list[Tensor]:
    """Log-prob, entropy and the two gradients in fp64, some positions at a time."""
    leaves = [t.detach().double().requires_grad_() for t in (x, weight)]
    logps, entropies = [], []
    for rows in torch.arange(len(targets), device=targets.device).split(512):
        log_p = (leaves[0][rows] @ leaves[1].t()).log_softmax(-1)
        logp = log_p.gather(1, targets[rows, None]).squeeze(1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        (by_logp[rows] * logp + by_entropy[rows] * entropy).sum().backward()
        logps.append(logp.detach())
        entropies.append(entropy.detach())
    gradients = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return [torch.cat(logps), torch.cat(entropies), *gradients]


def large_tile(device: torch.device, rows: int, columns: int, backend: str) -> Found:
    """A tile whose last elements a 32-bit index cannot reach: its last rows must be as if they were alone."""
    chosen = _backend(device, backend)
    need = rows * columns * 4 * (4 if backend == "torch" else 2)
    if device.type == "cuda" and need > (free := torch.cuda.mem_get_info(device)[0]):
        raise NotHere(f"{need / 2**30:.0f} GiB are needed, {free / 2**30:.0f} are free")
    generator = torch.Generator(device).manual_seed(0)
    tile = torch.empty(rows, columns, device=device).normal_(generator=generator)
    last = tile[-4:].clone()
    whole, alone = (_both_passes(chosen, part) for part in (tile, last))
    error = max(_relative(a, b) for a, b in zip(whole, alone, strict=True))
    size = f"{rows * columns / SPAN:.2f} x 2^31 elements"
    return Found("last rows equal to the same rows alone within 1e-5", f"{error:.1e} at {size}", error < 1e-5)


def _both_passes(backend: TorchBackend, tile: Tensor) -> list[Tensor]:
    """Statistics [4, t] of the last four rows, and these rows' gradient with that of the entropy; the tile is overwritten."""
    found = tile.new_empty((4, tile.shape[0]))
    target = torch.full((tile.shape[0],), tile.shape[1] - 1, device=tile.device)
    backend.statistics(tile, target, True, found)
    lse, entropy = found[0] + found[1].log(), found[1].log() - found[2] / found[1]
    one = torch.ones_like(lse)
    gradient = backend.gradient(tile, target, lse, torch.float32, one, one, entropy)
    return [found[:, -4:].clone(), gradient[-4:].clone()]


def products(device: torch.device, rows: int, inner: int, columns: int, dtype: torch.dtype) -> Found:
    """`addmm` whose result is wider than its operands, as the head calls it: new, and added to what is there."""
    a, b = _random((rows, inner), dtype, device, 0), _random((inner, columns), dtype, device, 1)
    exact = a.double() @ b.double()
    fresh = torch.full((rows, columns), math.nan, device=device)
    _addmm(fresh, a, b, beta=0, alpha=0.5)
    summed = torch.ones(rows, columns, device=device)
    _addmm(summed, a, b, beta=1, alpha=1.0)
    error = max(_relative(fresh, 0.5 * exact), _relative(summed, exact + 1))
    return Found("fp32 results within 1e-4, old contents ignored with beta 0", f"{error:.1e}", error < 1e-4)


def objective(device: torch.device, tokens: int) -> Found:
    """Every loss and its gradient in fp64, on the device and on the CPU."""
    worst, at = 0.0, ""
    for name in LOSSES:
        both = [_loss(name, tokens, place) for place in (torch.device("cpu"), device)]
        error = max(_relative(b.cpu(), a) for a, b in zip(*both, strict=True))
        if error >= worst:
            worst, at = error, name
    return Found(
        f"{len(LOSSES)} losses and gradients equal to the CPU's to 1e-12", f"{worst:.1e} ({at})", worst < 1e-12
    )


def _loss(name: str, tokens: int, device: torch.device) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    old = -normal(8, tokens).abs()
    logp, ref, rollout = (old + scale * normal(8, tokens) for scale in (0.3, 0.1, 0.1))
    eps_low, eps_high, advantages = 0.1 + 0.1 * normal(8).abs().clamp(max=1), 0.2 + normal(8).abs(), normal(8)
    mask = (torch.arange(tokens) < tokens - 3).expand(8, -1)
    leaf = logp.to(device).requires_grad_()
    inputs = PolicyLossInputs(
        logp=leaf, old_logp=old.to(device), ref_logp=ref.to(device), rollout_logp=rollout.to(device),
        entropy=normal(8, tokens).abs().to(device), advantages=advantages.to(device), eps_low=eps_low.to(device),
        eps_high=eps_high.to(device), mask=mask.to(device), length_norm=tokens,
    )  # fmt: skip
    loss, _ = policy_loss(inputs, Algo(loss=name, kl_coef=0.1, entropy_coef=0.01, is_cap=2.0))
    loss.backward()
    assert leaf.grad is not None
    return loss.detach(), leaf.grad


def _backend(device: torch.device, name: str) -> TorchBackend:
    if name == "torch":
        return TorchBackend()
    if device.type != "cuda" or find_spec("triton") is None:
        raise NotHere("Triton kernels need CUDA and the package triton")
    from megatron_patches.policy_head.triton_backend import TritonBackend

    return TritonBackend()


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    """The same numbers on every device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(device, dtype)


def _relative(found: Tensor, expected: Tensor) -> float:
    """Norm of the difference over that of what is expected."""
    expected = expected.detach().double()
    size = torch.linalg.vector_norm(expected)
    return float(torch.linalg.vector_norm(found.detach().double() - expected) / size.clamp(min=1e-300))


def _largest(found: Tensor, expected: Tensor) -> float:
    return float((found.detach().double() - expected.double()).abs().max())
