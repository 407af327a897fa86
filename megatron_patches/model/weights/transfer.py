"""Weights between a Hugging Face folder and the model chunks of a running world, tensor by tensor."""

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.utils import unwrap_model

from megatron_patches import parallel
from megatron_patches.model.weights.mapping import Entry, canonical, cut, entries, fill_vocab, join
from pipeline.settings import Model


def global_parameters(chunks: list, model: Model) -> dict[str, torch.nn.Parameter]:
    """This rank's parameters under their global names: layers counted over the whole model, experts over all ranks."""
    found = {}
    per_rank = (
        model.experts.count // parallel_state.get_expert_model_parallel_world_size() if model.experts.count else 0
    )
    first_expert = parallel_state.get_expert_model_parallel_rank() * per_rank
    for chunk in (unwrap_model(c) for c in chunks):
        for name, parameter in chunk.named_parameters():
            parts = canonical(name).split(".")
            if parts[:2] == ["decoder", "layers"]:
                parts[2] = str(chunk.decoder.layers[int(parts[2])].layer_number - 1)
            if "local_experts" in parts:
                at = parts.index("local_experts") + 1
                parts[at] = str(int(parts[at]) + first_expert)
            found[".".join(parts)] = parameter
    return found


def _cut_group(entry: Entry):
    """The group that this parameter is cut over: experts have a separate tensor-parallel group."""
    if "local_experts" in entry.name:
        return parallel_state.get_expert_tensor_parallel_group()
    return parallel_state.get_tensor_model_parallel_group()


@torch.no_grad()
def load_hf(chunks: list, model: Model, read: Callable[[str], torch.Tensor]) -> None:
    """Fills `chunks` from whole Hugging Face tensors, which `read(name)` returns one at a time.

    Raises KeyError from `read` for a missing tensor and ValueError naming the tensor for a wrong shape.
    """
    local = global_parameters(chunks, model)
    by_name = {entry.name: entry for entry in entries(model)}
    if model.tie_word_embeddings and "output_layer.weight" in local:  # the last pipeline stage keeps its own copy
        by_name["output_layer.weight"] = Entry("output_layer.weight", ("model.embed_tokens.weight",), "vocab")
    for name, parameter in local.items():
        entry = by_name[name]
        group = _cut_group(entry)
        if entry.kind == "vocab":
            whole = read(entry.hf[0])
            _expect(
                entry, whole[:1].shape[1:] == parameter.shape[1:] and whole.shape[0] == model.vocab_size, whole, model
            )
            fill_vocab(parameter.data, whole.to(parameter.dtype), group.rank())
            continue
        shard = cut(entry, [read(hf) for hf in entry.hf], model, group.rank(), group.size())
        _expect(entry, shard.shape == parameter.shape, shard, model)
        parameter.data.copy_(shard)


def _expect(entry: Entry, holds: bool, tensor: torch.Tensor, model: Model) -> None:
    if not holds:
        raise ValueError(
            f"{', '.join(entry.hf)}: shape {tuple(tensor.shape)} does not fit a {model.family} model of hidden size "
            f"{model.hidden_size}, {model.num_attention_heads} heads and vocabulary {model.vocab_size}"
        )


@torch.no_grad()
def export_tensors(chunks: list, model: Model) -> Iterator[tuple[str, torch.Tensor]]:
    """Whole Hugging Face tensors, one Megatron parameter at a time, on every rank (a collective: all ranks iterate).

    At most one whole parameter exists at a time besides the model. The tensors are on this rank's device; they are
    copies, except where a parameter is the same on every rank.
    """
    local = global_parameters(chunks, model)
    for entry in entries(model):
        group = _cut_group(entry)
        parameter = local.get(entry.name)
        if parameter is not None:
            shards = [parameter.data]
            if entry.kind != "copy" and group.size() > 1:
                shards = [torch.empty_like(parameter.data) for _ in range(group.size())]
                dist.all_gather(shards, parameter.data.contiguous(), group=group)
            whole = join(entry, shards, model)
        else:
            whole = []
        whole = _share(entry, whole)
        yield from zip(entry.hf, whole, strict=True)


def _share(entry: Entry, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    """Pass `tensors` from the pipeline and expert ranks that hold them to those that do not."""
    groups = []
    if parallel_state.get_pipeline_model_parallel_world_size() > 1:
        groups.append(parallel_state.get_pipeline_model_parallel_group())
    if parallel_state.get_expert_model_parallel_world_size() > 1 and "local_experts" in entry.name:
        groups.append(parallel_state.get_expert_model_parallel_group())
    for group in reversed(groups):
        shapes: list = [None] * group.size()
        dist.all_gather_object(shapes, [(tuple(t.shape), t.dtype) for t in tensors], group=group)
        holder = next((rank for rank, shape in enumerate(shapes) if shape), None)
        if holder is None:  # none of this group's ranks: another group, handled next, has it
            continue
        if not tensors:
            tensors = [torch.empty(shape, dtype=dtype, device=parallel.device()) for shape, dtype in shapes[holder]]
        tensors = [t.contiguous() for t in tensors]
        for tensor in tensors:
            dist.broadcast(tensor, src=dist.get_global_rank(group, holder), group=group)
    return tensors
