"""Run by test_rehearsal.py: faults that stop a run on GPUs and pass unnoticed on a CPU, planted in a rehearsal one by one.
Argument: config.yaml of a bf16 model with packed rows."""

import sys
from pathlib import Path

import yaml

from megatron_patches.rehearsal.__main__ import imagined

from megatron_patches.rehearsal import steps  # isort: skip
from megatron_patches.model import attention, norm
from pipeline.settings import Settings

import torch  # isort: skip
import torch.distributed as dist  # isort: skip


def bounds_stay_on_the_host(patch) -> None:
    """The first fault ever found: `MicroBatch.to` left the packed rows' cumulative lengths on the CPU."""
    patch(attention.PackedRows, "to", lambda self, device, all_bounds=False: self)


def host_tensor_in_a_layer(patch) -> None:
    forward = norm.RMSNorm.forward
    patch(norm.RMSNorm, "forward", lambda self, x: forward(self, x) + torch.zeros(x.shape[-1]))


def host_tensor_over_nccl(patch) -> None:
    forward = norm.RMSNorm.forward

    def planted(self, x):
        dist.all_reduce(torch.ones(3))
        return forward(self, x)

    patch(norm.RMSNorm, "forward", planted)


def number_read_in_a_layer(patch) -> None:
    forward = norm.RMSNorm.forward
    patch(norm.RMSNorm, "forward", lambda self, x: forward(self, x) * float(x.mean()))


def main() -> None:
    settings = Settings.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text("utf-8")))
    with imagined(settings, 0) as (ledger, _, _, found):
        step = steps.Step(settings, ledger, sampled_elsewhere=False)

        def score_with(fault) -> str:
            undo = []

            def patch(owner, name, new) -> None:
                undo.append((owner, name, getattr(owner, name)))
                setattr(owner, name, new)

            fault(patch)
            try:
                step.score(found)
            except Exception as error:
                return f"{type(error).__name__}: {error}".splitlines()[0]
            finally:
                for owner, name, old in undo:
                    setattr(owner, name, old)
            return "passes"

        def waits() -> int:
            return sum(ledger.phases["log-probs"].waits.values())

        print("nothing planted:", score_with(lambda patch: None))
        for fault in (bounds_stay_on_the_host, host_tensor_in_a_layer, host_tensor_over_nccl):
            print(f"{fault.__name__}:", score_with(fault))
        before = waits()
        score_with(lambda patch: None)
        usual, before = waits() - before, waits()
        print("number_read_in_a_layer:", score_with(number_read_in_a_layer), waits() - before - usual)


if __name__ == "__main__":
    main()
