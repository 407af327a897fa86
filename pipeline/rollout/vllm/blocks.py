"""The place of each Hugging Face tensor in this rank's vLLM parameters.

vLLM stacks query, key and value, and the MLP's gate and up, and splits each by the engine's tensor-parallel rank.
vLLM's own loaders load whole tensors. This module does what they cannot: it writes a tensor that arrives in pieces, and
compares an engine's weights with the actor's. It leaves out experts, because each kernel stacks them in another form.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

PARTS = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
}
"""vLLM's stacked layers and their parts, in order."""
PRIME = 8191
"""The weights of a checksum run from 1 to this and repeat, so that exchanged rows change it."""


@dataclass(frozen=True)
class Block:
    """This rank's part of one Hugging Face tensor; it is whole along every dimension except `dim`."""

    parameter: torch.Tensor
    """A view of vLLM's parameter."""
    dim: int
    """Dimension along which the tensor is split."""
    first: int
    """Index of the first element of this rank's part along `dim` of the whole tensor."""

    def of(self, whole: torch.Tensor) -> torch.Tensor:
        """Selects this rank's part of the whole tensor."""
        return whole.narrow(self.dim, self.first, self.parameter.shape[self.dim])

    def write(self, first: int, rows: torch.Tensor) -> None:
        """Copies this rank's part of `rows`, which are rows `first` and following of the whole tensor."""
        if self.dim == 1:
            self.parameter[first : first + rows.shape[0]].copy_(self.of(rows))
            return
        begin = max(first, self.first)
        end = min(first + rows.shape[0], self.first + self.parameter.shape[0])
        if begin < end:
            self.parameter[begin - self.first : end - self.first].copy_(rows[begin - first : end - first])


def find(model: torch.nn.Module) -> dict[str, Block]:
    """Finds the blocks of a vLLM model, by the name of the Hugging Face tensor."""
    from vllm.model_executor.layers.linear import (
        MergedColumnParallelLinear,
        QKVParallelLinear,
        RowParallelLinear,
    )
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    found: dict[str, Block] = {}
    owned: set[str] = set()
    for path, layer in model.named_modules():
        stem, _, last = path.rpartition(".")
        module: Any = layer
        if isinstance(layer, QKVParallelLinear):
            kv_rank = module.tp_rank // module.num_kv_head_replicas
            widths = [module.num_heads * module.head_size, *[module.num_kv_heads * module.head_size] * 2]
            _stacked(found, module, stem, PARTS[last], widths, [module.tp_rank, kv_rank, kv_rank])
        elif isinstance(layer, MergedColumnParallelLinear) and last in PARTS:
            widths = [size // module.tp_size for size in module.output_sizes]
            _stacked(found, module, stem, PARTS[last], widths, [module.tp_rank] * len(widths))
        elif isinstance(layer, RowParallelLinear):
            weight = module.weight.data
            found[f"{path}.weight"] = Block(weight, 1, module.tp_rank * weight.shape[1])
        elif isinstance(layer, VocabParallelEmbedding):
            indices = module.shard_indices
            count = indices.org_vocab_end_index - indices.org_vocab_start_index
            found[f"{path}.weight"] = Block(module.weight.data[:count], 0, indices.org_vocab_start_index)
        else:
            continue
        owned.add(path)
    for name, parameter in model.named_parameters():
        path = name.rpartition(".")[0]
        if path not in owned and "experts" not in name and name not in found:
            found[name] = Block(parameter.data, 0, 0)
    return found


def _stacked(
    found: dict[str, Block], module: Any, stem: str, parts: tuple[str, ...], widths: list[int], ranks: list[int]
) -> None:
    for kind in ("weight", "bias"):
        parameter = getattr(module, kind, None)
        if parameter is None:
            continue
        at = 0
        for part, width, rank in zip(parts, widths, ranks, strict=True):
            found[f"{stem}.{part}.{kind}"] = Block(parameter.data[at : at + width], 0, rank * width)
            at += width


def checksum(tensor: torch.Tensor) -> float:
    """Computes a weighted sum in fp64, which differs for the same numbers in another order."""
    flat = tensor.detach().reshape(-1)
    total = 0.0
    for part in flat.split(PRIME * 512):  # fp64 copies of a few MB at most
        weights = torch.arange(part.shape[0], device=part.device) % PRIME + 1
        total += float(part.double() @ weights.double())
    return total


Checksums = dict[str, tuple[int, int, int, float]]
"""Name of the Hugging Face tensor -> the block's dim, first index, length and checksum."""


def checksums(model: torch.nn.Module) -> Checksums:
    """Computes the checksums of all blocks of this rank."""
    return {
        name: (block.dim, block.first, block.parameter.shape[block.dim], checksum(block.parameter))
        for name, block in find(model).items()
    }


def worst(holdings: list[Checksums], sent: Iterable[tuple[str, torch.Tensor]]) -> tuple[str | None, float]:
    """Finds the tensor whose blocks differ most from the actor's, and the relative difference; None if all are equal.

    `sent` yields the actor's tensors. It is always read to its end, because it may be a collective.
    """
    name, difference = None, 0.0
    for key, tensor in sent:
        for held in holdings:
            if key not in held:
                continue
            dim, first, length, found = held[key]
            expected = tensor.narrow(dim, first, length)
            size = checksum(expected.abs()) or 1.0
            here = abs(found - checksum(expected)) / size
            if here > difference or here != here:
                name, difference = key, here
    return name, difference
