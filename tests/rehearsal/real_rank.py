"""Run by test_rehearsal.py: the rehearsed step with real tensors on the CPU, its memory counted by other code than the
rehearsal's. Arguments: config.yaml result.json, to which each rank's number is added."""

import json
import sys
from pathlib import Path

import yaml
from live_bytes import LiveBytes

from megatron_patches import parallel
from megatron_patches.model import attention
from megatron_patches.rehearsal import steps
from megatron_patches.rehearsal.ledger import Ledger
from pipeline.settings import Settings

import torch  # isort: skip
import torch.distributed as dist  # isort: skip
from torch.utils._python_dispatch import _disable_current_modes  # isort: skip


def causal_lower_right(*sizes: int):
    """A mask is a tensor of another class, which torch does not make while tensors are counted."""
    with _disable_current_modes():
        return MASK(*sizes)


def even_topk(scores: torch.Tensor, k: int, *words, **options):
    """Experts of equal load, as a rehearsal has them: token t goes to experts k t, k t + 1, ..."""
    values, chosen = TOPK(scores, k, *words, **options)
    chosen.data.copy_(
        torch.arange(chosen.numel()).view_as(chosen) % scores.shape[1]
    )  # unseen by autograd, which kept it
    return values, chosen


TOPK = torch.topk
MASK, attention.causal_lower_right = attention.causal_lower_right, causal_lower_right


def main() -> None:
    settings = Settings.model_validate(yaml.safe_load(Path(sys.argv[1]).read_text("utf-8")))
    torch.set_num_threads(1)
    parallel.initialize(settings.layout, settings.seed)
    if settings.model.experts.count:
        torch.topk = even_topk
    found = steps.samples(settings, steps.Load.of(settings), parallel.data_parallel_size())
    peaks = {}
    with LiveBytes() as live:
        step = steps.Step(settings, Ledger(settings.cluster.speed, 1), sampled_elsewhere=False)
        phases = {
            "log-probs": lambda: step.score(found),
            "update": lambda: step.update(found),
            "sync": step.sync,
            "save": step.save,
        }
        for name, phase in phases.items():
            live.peak = live.now
            phase()
            peaks[name] = live.peak
    Path(f"{sys.argv[2]}.{dist.get_rank()}").write_text(json.dumps(peaks))
    parallel.finish()


if __name__ == "__main__":
    main()
