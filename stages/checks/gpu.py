"""Does the GPU path compute what the CPU path computes? `stage=doctor check=gpu`: a ladder of at most ten minutes on one GPU.

Needs neither DeepSpeed nor vLLM nor a network. Prints a table and leaves it in the run's folder, as JSON and in Markdown.
"""

import signal
from collections.abc import Sequence
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pipeline.common.errors import InputError
from pipeline.common.files import write_json, write_text
from pipeline.run.summary import environment
from pipeline.stage import StageRun
from stages.checks import ladder
from stages.checks.ladder import Row, Rung

LIMIT_S = 480
"""No rung is begun later, so that ten minutes are enough for the last."""
TINY_RUN_S = 240
FEW_LAYERS = ("model.num_layers=8", "model.parameters=none")
FEW_EXPERTS = (
    "model.num_layers=4", "model.experts.count=16", "model.vocab_size=32000", "model.parameters=none", "layout.ep=1",
)  # fmt: skip
PACKAGES = ("torch", "triton", "megatron-core", "transformers", "transformer-engine", "flash-attn", "numpy")


def main(run: StageRun) -> dict:
    """Climb the ladder on the first GPU. Raises InputError if there is none, or if a rung fails."""
    import torch

    if not torch.cuda.is_available():
        raise InputError(
            f"check=gpu needs an NVIDIA GPU that torch sees; torch {torch.__version__} (CUDA {torch.version.cuda}) sees none."
            " Look at bash run.sh stage=doctor."
        )
    from megatron_patches import parallel
    from stages.checks.actor import settings_of

    parallel.initialize(settings_of("tiny").layout, seed=0)
    device = parallel.device()
    signal.signal(signal.SIGTERM, _interrupt)  # the launcher's form of Ctrl-C
    for line in header():
        run.log(line)
    rows, interrupted = ladder.climb(rungs(device, run.folder()), run.log, LIMIT_S)
    report(run, rows)
    if interrupted:
        raise KeyboardInterrupt
    failed = [row.name for row in rows if row.ok is False]
    if failed:
        raise InputError(
            f"{len(failed)} of {len(rows)} rungs failed: {'; '.join(failed)}. The table says what was asked and got."
        )
    return {"rungs": len(rows), "skipped": [row.name for row in rows if row.ok is None]}


def rungs(device: Any, folder: Path) -> list[Rung]:
    """The ladder at its full sizes, cheap rungs first."""
    import torch

    from stages.checks import actor, kernels, levers, tiny_run

    bf16 = torch.bfloat16
    found: list[Rung] = [
        ("objective, fp64", partial(kernels.objective, device, 512)),
        ("addmm(out_dtype)", partial(kernels.products, device, 2048, 5120, 2048, bf16)),
        ("packed attention, bf16", partial(kernels.attention, device, [1024, 513, 7, 2048, 1, 504], 16, 8, 128, bf16)),
        ("packed attention, fp32", partial(kernels.attention, device, [1024, 513, 7], 16, 8, 128, torch.float32)),
        ("policy head, choice of backend", partial(kernels.backend_choice, device)),
    ]
    for backend in ("torch", "triton"):
        for vocab in (18_992, 151_936):
            name = f"policy head, {backend}, T 4096, H 5120, V {vocab:,}"
            found.append((name, partial(kernels.head, device, 4096, 5120, vocab, bf16, backend)))
        found.append(
            (f"policy head, {backend}, tile over 2^31", partial(kernels.large_tile, device, 14_400, 151_936, backend))
        )

    def small() -> Any:
        settings = actor.settings_of("0.6b")
        return settings, actor.experience_of(settings, 4, 4, 3072)

    return [
        *found,
        ("Actor.update, 0.6B, fp32", partial(actor.update_as_on_cpu, "0.6b", 96)),
        ("memory of an update, 0.6B, bf16", lambda: actor.update_memory(*small())),
        ("memory of a save, 0.6B, bf16", lambda: actor.save_memory(*small())),
        ("decoding, 0.6B, bf16", lambda: actor.decoding(small()[0], 128, 256)),
        *(
            (f"{name}, 0.6B's width", partial(levers.same_step, "0.6b", FEW_LAYERS, words, (2, 4, 1024)))
            for name, words in levers.LEVERS.items()
        ),
        *(
            (f"{name}, 30B-A3B's width", partial(levers.same_step, "30b-a3b", FEW_EXPERTS, words, (2, 4, 1024)))
            for name, words in levers.EXPERT_LEVERS.items()
        ),
        ("tiny preset with a kill", lambda: tiny_run.pipeline(folder / "runs", _cluster(device), TINY_RUN_S)),
    ]


def _cluster(device: Any) -> list[str]:
    """One GPU like this one."""
    import torch

    return [
        "cluster=gpu1",
        f"cluster.device_memory_gib={torch.cuda.get_device_properties(device).total_memory // 2**30}",
    ]


def header() -> list[str]:
    """What the ladder runs on."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    found = ", ".join(f"{package} {_version(package)}" for package in PACKAGES)
    return [f"{name}, CUDA {torch.version.cuda}", found]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def report(run: StageRun, rows: Sequence[Row]) -> None:
    """Prints the table, and leaves it as gpu.json and gpu.md."""
    for line in ladder.screen(rows):
        run.log(line)
    where = header()
    record = {"device": where[0], "environment": environment(), "packages": {name: _version(name) for name in PACKAGES}}
    write_json(run.folder() / "gpu.json", record | {"rungs": ladder.record(rows)})
    write_text(run.folder() / "gpu.md", "\n".join([*where, "", *ladder.page(rows), ""]))
    run.log(f"written to {run.folder() / 'gpu.json'} and gpu.md")


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
