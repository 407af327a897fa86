"""Rehearse one rank: `python -m megatron_patches.rehearsal <config.yaml> <rank> <result.json>`."""

import json
import sys
import time
from pathlib import Path

import yaml

from megatron_patches.rehearsal.device import NAME, RehearsedDevice
from megatron_patches.upstream.cpu import rules

rules.use_device(NAME)  # megatron-core names its device in its source, so this comes before its import

import torch  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402

from megatron_patches import parallel  # noqa: E402
from megatron_patches.rehearsal import stand_ins, steps  # noqa: E402
from megatron_patches.rehearsal.ledger import Ledger  # noqa: E402
from pipeline.settings import Settings  # noqa: E402
from pipeline.settings.engine import chosen_engine, uses_gpus  # noqa: E402


def rehearse(settings: Settings, rank: int) -> dict:
    """One step of rank `rank`; returns what the ledger holds."""
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
    fake = FakeTensorMode(allow_non_fake_inputs=False)
    share = model.experts.per_token / model.experts.count if model.experts.count else 0.0
    device = RehearsedDevice(ledger, fake, share)
    native = chosen_engine(settings) == "native"
    with fake, device:
        step = steps.Step(settings, ledger, sampled_elsewhere=not native or settings.rl.async_depth > 0)
        step.score(found)
        step.update(found)
        if not native:
            stand_ins.bucket_holders(model)
            step.sync()
        device.host_is_real = False
        step.save()
    return {
        "rank": rank,
        "load": {"sequences": load.sequences, "length": load.length, "micro_batches": load.micro_batches},
        "phases": {name: _plain(phase) for name, phase in ledger.phases.items()},
    }


def _plain(phase) -> dict:
    return vars(phase) | {
        "collectives": [[group, name, *row] for (group, name), row in sorted(phase.collectives.items())],
        "waits": dict(phase.waits.most_common()),
    }


def main(config: str, rank: str, result: str) -> None:
    settings = Settings.model_validate(yaml.safe_load(Path(config).read_text("utf-8")))
    torch.set_num_threads(1)
    found = rehearse(settings, int(rank))
    Path(result).write_text(json.dumps(found | {"processor_seconds": time.process_time()}), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
