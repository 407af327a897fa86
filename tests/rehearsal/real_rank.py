"""Run by test_rehearsal.py: the rehearsed step of a world of one with real tensors on the CPU, its memory counted by other code
than the rehearsal's. Arguments: config.yaml result.json."""

import json
import sys
from pathlib import Path

import yaml
from live_bytes import LiveBytes

from megatron_patches import parallel
from megatron_patches.rehearsal import steps
from megatron_patches.rehearsal.ledger import Ledger
from pipeline.settings import Settings

import torch  # isort: skip


def main() -> None:
    settings = Settings.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text("utf-8")))
    torch.set_num_threads(1)
    parallel.initialize(settings.layout, settings.seed)
    found = steps.samples(settings, steps.Load.of(settings), copies=1)
    peaks = {}
    with LiveBytes() as live:
        step = steps.Step(settings, Ledger(settings.cluster.speed, 1), sampled_elsewhere=False)
        for name, phase in (("log-probs", step.score), ("update", step.update)):
            live.peak = live.now
            phase(found)
            peaks[name] = live.peak
    Path(sys.argv[2]).write_text(json.dumps(peaks))
    parallel.finish()


if __name__ == "__main__":
    main()
