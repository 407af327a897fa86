"""The Triton kernels against the torch backend, tile by tile, in Triton's interpreter: results, and not speed."""

import os

import pytest
import torch

os.environ.setdefault("TRITON_INTERPRET", "1")
pytest.importorskip("triton", reason="triton is not installed (it comes with the CUDA build of torch)")

from megatron_patches.policy_head import fused_policy_head, plan, token_logprobs
from megatron_patches.policy_head.backend import TorchBackend
from megatron_patches.policy_head.triton_backend import TritonBackend

ROWS = 6


def tile(columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Makes logits with a row of large numbers and a row of -inf, and targets inside, before and after the tile."""
    g = torch.Generator().manual_seed(columns)
    logits = torch.randn(ROWS, columns, generator=g) * 3
    logits[1, :3] = -torch.inf
    logits[2] *= 1e4
    logits[3] = -torch.inf
    return logits, torch.tensor([0, -1, columns - 1, columns, 2, 3])


@pytest.mark.parametrize("columns", [5, 4096, 5001])
@pytest.mark.parametrize("entropy", [False, True])
def test_statistics(columns, entropy):
    logits, target = tile(columns)
    found = [torch.zeros(2, 4, ROWS + 2) for _ in range(2)]
    for backend, out in zip((TorchBackend(), TritonBackend()), found, strict=True):
        backend.statistics(logits.clone(), target, entropy, out[1, :, 1:-1])
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("columns", [5, 5001])
def test_a_nan_logit_makes_its_row_nan_and_no_other(columns):
    """On a GPU a plain tl.maximum drops it, and the row looks sound; the interpreter keeps it either way."""
    logits, target = tile(columns)
    logits[4, columns - 1] = torch.nan
    found = torch.zeros(4, ROWS)
    TritonBackend().statistics(logits.clone(), target, True, found)
    assert found[1].isnan().tolist() == [False] * 4 + [True, False]
    assert found[2].isnan().tolist() == [False] * 4 + [True, False]


@pytest.mark.parametrize("columns", [5, 2048, 5001])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradient(columns, entropy, dtype):
    logits, target = tile(columns)
    logits[3] = 0.5
    lse, parts = logits.logsumexp(1), torch.randn(3, ROWS)
    arguments = (target, lse, dtype, parts[0], parts[1] if entropy else None, parts[2] if entropy else None)
    expected = TorchBackend().gradient(logits.clone(), *arguments).to(dtype)
    got = TritonBackend().gradient(logits.clone(), *arguments)
    assert got.dtype == dtype
    torch.testing.assert_close(got, expected, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5)


def test_the_whole_head(monkeypatch):
    g = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(9, 8, generator=g), torch.randn(70, 8, generator=g)
    targets, parts = torch.randint(0, 61, (9,), generator=g), torch.randn(2, 9, generator=g)
    options = {"vocab_size": 61, "chunk_tokens": 4, "chunk_vocab": 16, "index": torch.tensor([8, 1, 2, 5, 0])}

    def objective(where, logp, entropy):
        return parts[0][where] * logp + parts[1][where] * entropy

    def gradients():
        leaves = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        fused = fused_policy_head(*leaves, targets, objective, **options)[0]
        logp, entropy = token_logprobs(*leaves, targets, entropy_grad=True, **options)
        losses = fused, objective(slice(None), logp, entropy).sum()
        return [x for loss in losses for x in (loss, *torch.autograd.grad(loss, leaves))]

    expected = gradients()
    monkeypatch.setattr(plan, "select", lambda _device, _dtype: TritonBackend())
    torch.testing.assert_close(gradients(), expected, rtol=1e-4, atol=1e-5)
