"""Rehearse one rank of the warm-up: `python -m stages.sft_rehearsal <config.yaml> <rank> <result.json> [bucket]`.

The stage's own step with DeepSpeed's own engine, on tensors that have no numbers (`megatron_patches.rehearsal`). What stands in
for a device and for other ranks is named here, each with its reason.
"""

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from torch.optim import optimizer

from megatron_patches.policy_head import plan
from megatron_patches.rehearsal import stand_ins
from megatron_patches.rehearsal.device import NAME, RehearsedDevice
from megatron_patches.rehearsal.ledger import Ledger
from pipeline.models.folders import config_of
from pipeline.settings import Settings
from pipeline.settings.engine import uses_gpus
from pipeline.sft import engine as zero
from pipeline.sft.packing import PackedRows
from pipeline.stage import StageRun
from stages.sft import train_step, trainable

MICRO_BATCHES = 2
"""Of the rehearsed step at most. More of them take time, and no more memory."""


def deepspeed_on_device() -> None:
    """DeepSpeed asks its accelerator for the name of the device, and torch for what is not known of `meta`."""
    import deepspeed.runtime.zero.linear as linear
    import deepspeed.runtime.zero.partitioned_param_coordinator as coordinator
    import torch.fx.experimental._config as meta
    from deepspeed.accelerator import get_accelerator
    from deepspeed.runtime.utils import CheckOverflow
    from deepspeed.runtime.zero import stage3, stage_1_and_2

    accelerator: Any = type(get_accelerator())
    accelerator.device_name = lambda self, index=None: NAME
    accelerator.current_device_name = lambda self: NAME
    accelerator.device = lambda self, index=None: torch.device(NAME)
    # Its layers ask torch for the device's autocast, which is off in any case.
    linear.get_accelerator = lambda: SimpleNamespace(device_name=lambda: "cpu")
    # ZeRO 3 compares the order of layers with that of rank 0, in numbers.
    coordinator.assert_ints_same_as_other_ranks = lambda ints: None
    # Whether a gradient is finite is a number too, and numbers that are read from the device are made up.
    for module, kind in ((stage_1_and_2, "DeepSpeedZeroOptimizer"), (stage3, "DeepSpeedZeroOptimizer_Stage3")):
        getattr(module, kind).has_overflow = lambda self, *words, **options: False
        module.is_invalid_grad_norm = lambda norm: False
    for name in ("check", "check_using_norm", "has_overflow"):
        setattr(CheckOverflow, name, lambda self, *words, **options: False)
    # All tokens of a row are learned from.
    meta.meta_nonzero_assume_all_nonzero = True  # type: ignore[attr-defined]


def build(settings: Settings, config: dict[str, Any]) -> Any:
    """The stage's model and engine, on the device from the beginning."""
    import deepspeed
    from transformers import AutoModelForCausalLM

    model, sft = settings.model, settings.sft
    dtype = torch.bfloat16 if model.dtype == "bf16" else torch.float32
    is_cut = sft.zero_stage == 3
    partitioned: Any = deepspeed.zero.Init(config_dict_or_path=config) if is_cut else contextlib.nullcontext()
    with torch.device(NAME), partitioned:
        built = AutoModelForCausalLM.from_config(config_of(model), attn_implementation="sdpa", dtype=dtype)
    built.tie_weights()
    return zero.build_engine(trainable(built, sft), sft, config)


def rows_of(settings: Settings, count: int) -> PackedRows:
    """`count` full rows of one example each."""
    tokens = torch.zeros((count, settings.sft.sequence_length), dtype=torch.int64)
    positions = torch.arange(settings.sft.sequence_length).expand(count, -1)
    return PackedRows(tokens, tokens, positions, torch.ones_like(tokens))


@contextlib.contextmanager
def imagined(settings: Settings, rank: int) -> Iterator[Ledger]:
    """Makes this process rank `rank` of the warm-up, with an imagined device. Yields its books."""
    cluster = settings.cluster
    size = cluster.nnodes * cluster.devices_per_node
    local = str(rank % cluster.devices_per_node)
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(size), LOCAL_RANK=local, MASTER_ADDR="127.0.0.1")
    ledger = Ledger(cluster.speed, cluster.devices_per_node)
    stand_ins.world(rank, size, ledger)
    zero.connect(1.0)
    deepspeed_on_device()
    stand_ins.modules()
    torch.nn.functional.scaled_dot_product_attention = stand_ins.attention_of(uses_gpus(cluster))
    if uses_gpus(cluster):  # torch's AdamW then steps all parameters at once, which takes half of the temporary memory
        optimizer._get_foreach_kernels_supported_devices = lambda: [NAME]
    else:  # the loss makes smaller tiles of logits there
        plan.default_tile = partial(_tile_of_cpu, plan.default_tile)
    with RehearsedDevice(ledger, 0.0, uses_gpus(cluster)):
        yield ledger


def rehearse(settings: Settings, rank: int, bucket: int | None = None) -> dict[str, Any]:
    """The second step of rank `rank`: the first makes Adam's moments. Returns what the ledger holds. `bucket`: elements of
    DeepSpeed's reduce_bucket_size, if not its default."""
    sft, size = settings.sft, settings.cluster.nnodes * settings.cluster.devices_per_node
    share = max(1, sft.batch_size // size)
    micro_batches = min(MICRO_BATCHES, zero.accumulation_steps(share, sft.micro_batch_size))
    rows = min(share, sft.micro_batch_size)
    config = zero.engine_config(sft, micro_batches, settings.model.dtype == "bf16")
    if bucket is not None:
        config["zero_optimization"]["reduce_bucket_size"] = bucket
    with imagined(settings, rank) as ledger:
        engine = build(settings, config)
        _forget_shapes(engine)
        ledger.mark((getattr(p, "ds_tensor", p.data) for p in engine.module.parameters()), "weights")
        for name, method in {"forward": "forward", "backward": "backward", "optimizer step": "step"}.items():
            setattr(engine, method, _counted(ledger, name, getattr(engine, method)))
        run = StageRun(settings=settings, root=Path(), rank=rank, world_size=size)
        batch = rows_of(settings, rows * micro_batches * size)
        train_step(engine, batch, 1e-4, run, micro_batches)
        adam = getattr(engine.optimizer, "optimizer", engine.optimizer)
        ledger.mark((p.data for group in adam.param_groups for p in group["params"]), "optimizer")
        moments = (value for state in adam.state.values() for value in state.values())
        ledger.mark((x for x in moments if isinstance(x, torch.Tensor) and x.device.type == NAME), "optimizer")
        ledger.phases.clear()
        with ledger.phase("between steps"):
            pass
        train_step(engine, batch, 1e-4, run, micro_batches)
    return {
        "rank": rank,
        "load": {"sequences": rows, "length": sft.sequence_length, "micro_batches": micro_batches},
        "phases": {name: phase.plain() for name, phase in ledger.phases.items()},
    }


def _tile_of_cpu(tile: Any, device: torch.device, rows: int, fused: bool) -> tuple[int, int]:
    return tile(torch.device("cpu"), rows, fused)


def _forget_shapes(engine: Any) -> None:
    """ZeRO 1 and 2 keep a `meta` tensor of each parameter's shape, which here would be one on the device."""
    for tensors in getattr(engine.optimizer, "round_robin_bit16_meta", ()):
        tensors[:] = [torch.empty(1, dtype=x.dtype, device=NAME).expand(x.shape) for x in tensors]


def _counted(ledger: Ledger, name: str, method: Any) -> Any:
    def counted(*args: Any, **options: Any) -> Any:
        with ledger.phase(name):
            return method(*args, **options)

    return counted


def main(config: str, rank: str, result: str, bucket: str = "") -> None:
    settings = Settings.model_validate(yaml.safe_load(Path(config).read_text("utf-8")))
    torch.set_num_threads(1)
    found = rehearse(settings, int(rank), int(bucket) if bucket else None)
    Path(result).write_text(json.dumps(found | {"processor_seconds": time.process_time()}), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
