"""Rehearse one rank: `python -m megatron_patches.rehearsal <config.yaml> <rank> <result.json>`."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from megatron_patches.rehearsal.device import NAME, RehearsedDevice
from megatron_patches.upstream.cpu import rules

rules.use_device(NAME)  # megatron-core names its device in its source, so this comes before its import

import torch  # noqa: E402

from megatron_patches import parallel  # noqa: E402
from megatron_patches.rehearsal import stand_ins, steps  # noqa: E402
from megatron_patches.rehearsal.ledger import Ledger  # noqa: E402
from pipeline.rl.experience import Samples  # noqa: E402
from pipeline.settings import Settings  # noqa: E402
from pipeline.settings.engine import chosen_engine, sampled_elsewhere, uses_gpus  # noqa: E402


@contextlib.contextmanager
def imagined(settings: Settings, rank: int) -> Iterator[tuple[Ledger, RehearsedDevice, steps.Load, Samples]]:
    """Makes this process rank `rank`, with an imagined device. Yields its books, the device, and what a step learns from."""
    model, cluster = settings.model, settings.cluster
    size = cluster.nnodes * cluster.devices_per_node
    stand_ins.device()
    ledger = Ledger(cluster.speed, cluster.devices_per_node)
    stand_ins.world(rank, size, ledger)
    parallel.initialize(settings.layout, settings.seed)
    stand_ins.kernels(ledger, uses_gpus(cluster))
    stand_ins.modules()
    if model.experts.count:
        stand_ins.even_experts(model)
    load = steps.Load.of(settings)
    found = steps.samples(settings, load, parallel.data_parallel_size())
    stand_ins.pipeline_shapes(steps.stream_shape(settings, found, load))
    # The share of experts that a token visits is the share of a routing map that is true.
    share = model.experts.per_token / model.experts.count if model.experts.count else 0.0
    device = RehearsedDevice(ledger, share, uses_gpus(cluster))
    stand_ins.host_moments(device)
    with device:
        yield ledger, device, load, found


def rehearse(settings: Settings, rank: int) -> dict:
    """One step of rank `rank`; returns what the ledger holds."""
    native = chosen_engine(settings) == "native"
    with imagined(settings, rank) as (ledger, device, load, found):
        step = steps.Step(settings, ledger, sampled_elsewhere(settings))
        step.score(found)
        step.update(found)
        if not native:
            stand_ins.bucket_holders(settings.model)
            step.sync()
        device.host_is_real = False
        step.save()
    return {
        "rank": rank,
        "load": {"sequences": load.sequences, "length": load.length, "micro_batches": load.micro_batches},
        "phases": {name: phase.plain() for name, phase in ledger.phases.items()},
    }


def main(config: str, rank: str, result: str) -> None:
    settings = Settings.model_validate(yaml.safe_load(Path(config).read_text("utf-8")))
    torch.set_num_threads(1)
    found = rehearse(settings, int(rank))
    Path(result).write_text(json.dumps(found | {"processor_seconds": time.process_time()}), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
