"""Core attention where no machine of the tests can run it: the CUDA branch on fake tensors.

A fake tensor has a device, a dtype and a shape, and no numbers. So an operation that mixes devices raises, and so does
every place at which the host would have to wait for a number from the device. That the branch computes the right thing
needs a GPU.
"""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from megatron_patches.model.attention import PackedRows, SdpaCoreAttention
from megatron_patches.training import batches
from pipeline.settings import Layout

CONFIG = SimpleNamespace(attention_dropout=0.0, kv_channels=16)


class Group:
    """A context-parallel group of one."""

    def size(self) -> int:
        return 1

    def rank(self) -> int:
        return 0


def attention() -> SdpaCoreAttention:
    return SdpaCoreAttention(CONFIG, 1, None, None, pg_collection=SimpleNamespace(cp=Group()))


def inputs(device: str, grad: bool = False) -> list[torch.Tensor]:
    """Nine tokens in bf16: queries of 4 heads, keys and values of 2."""
    shapes = ((9, 4, 16), (9, 2, 16), (9, 2, 16))
    return [torch.empty(shape, dtype=torch.bfloat16, device=device, requires_grad=grad) for shape in shapes]


def test_packed_rows_on_cuda_take_the_variable_length_kernel():
    """This build makes no copy to CUDA and no gradient there, so bounds are made in place and the backward is on `meta`."""
    with FakeTensorMode():
        rows = replace(PackedRows.of([3, 5, 1]), device_bounds=torch.zeros(4, dtype=torch.int32, device="cuda"))
        out = attention()(*inputs("cuda"), None, packed_seq_params=rows)
        assert (out.shape, out.device.type, out.dtype) == ((9, 64), "cuda", torch.bfloat16)


def test_the_variable_length_kernel_has_a_gradient_and_never_waits():
    with FakeTensorMode():
        leaves = inputs("meta", grad=True)
        rows = PackedRows.of([3, 5, 1]).to(torch.device("meta"))
        attention()._varlen(*leaves, rows).sum().backward()
        assert all(leaf.grad is not None and leaf.grad.shape == leaf.shape for leaf in leaves)


def test_bounds_that_stay_on_the_host_are_refused():
    """Before, the rows that reached the kernel had theirs there."""
    with FakeTensorMode(), pytest.raises(AssertionError, match=r"bounds on cpu, tokens on cuda"):
        attention()(*inputs("cuda"), None, packed_seq_params=PackedRows.of([3, 5, 1]))


def test_a_micro_batch_moves_what_the_model_reads_and_keeps_the_hosts_copy():
    from experiences import random_experience

    micro = batches.build(random_experience(50), [0, 3, 4], Layout(), 0, packed=True)
    moved = micro.to(torch.device("meta"))
    assert {x.device.type for x in (moved.tokens, moved.position_ids, moved.targets, moved.index)} == {"meta"}
    assert moved.packed.device_bounds.device.type == "meta"
    assert moved.packed.cu_seqlens_q.device.type == moved.packed.cu_seqlens_kv.device.type == "cpu"
    assert moved.packed.cu_seqlens_q.tolist()[-1] == sum(moved.packed.lengths) == micro.tokens.numel()
