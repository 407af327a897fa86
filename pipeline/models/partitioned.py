"""A Hugging Face model whose weights are cut over the ranks as they are read (ZeRO 3): no rank holds the whole model."""

from pathlib import Path
from typing import Any

import torch

from pipeline.models.tensors import TensorFolder


def load_partitioned(folder: Path, config: dict[str, Any], dtype: torch.dtype) -> Any:
    """The model of `folder` under `deepspeed.zero.Init` (a collective). Rank 0 reads one tensor after the other; each rank
    keeps its part.

    Args:
        config: DeepSpeed's, of the engine that the model is for.

    Raises:
        InputError: the folder lacks a tensor, on rank 0.
    """
    import deepspeed
    import torch.distributed as dist
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights(), deepspeed.zero.Init(config_dict_or_path=config):
        shape = AutoConfig.from_pretrained(str(folder))
        model = AutoModelForCausalLM.from_config(shape, attn_implementation="sdpa", dtype=dtype)
    model.tie_weights()
    # Init makes every new floating tensor of the weights' dtype, and bf16 has too few digits for rotary frequencies.
    model.model.rotary_emb = type(model.model.rotary_emb)(config=model.config)
    tensors = TensorFolder(folder)
    for name, parameter in model.named_parameters():
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            if dist.get_rank() == 0:
                parameter.data.copy_(_whole(tensors, name))
    return model


EXPERTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}
"""Parameters that transformers keeps as one tensor of all experts -> the tensors of each expert in a folder."""


def _whole(tensors: TensorFolder, name: str) -> torch.Tensor:
    """The tensor of a parameter; experts are stacked, and their gate and up matrices joined."""
    prefix, _, kind = name.rpartition(".")
    if not prefix.endswith(".experts") or kind not in EXPERTS:
        return tensors.read(name)
    count = len({part.split(".")[-3] for part in tensors.names() if part.startswith(f"{prefix}.")})
    return torch.stack(
        [torch.cat([tensors.read(f"{prefix}.{i}.{part}.weight") for part in EXPERTS[kind]]) for i in range(count)]
    )
