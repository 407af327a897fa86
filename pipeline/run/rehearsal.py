"""Rehearsals of a planned run: one process for each rank (`megatron_patches.rehearsal`; of the warm-up
`stages.sft_rehearsal`), and their results as text."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from pipeline.common.devices import cores
from pipeline.common.errors import UsageError, UserError
from pipeline.run import sft_memory
from pipeline.run.door import ROOT
from pipeline.run.memory import GIB, Memory
from pipeline.run.pace import Pace, pace, published
from pipeline.run.plan import data_parallel, memory_of, world_size
from pipeline.run.shapes import count
from pipeline.settings import Settings
from pipeline.settings.engine import chosen_engine, uses_gpus
from pipeline.settings.levers import without_transformer_engine

PARTS = ("weights", "gradients", "optimizer", "reference", "activations", "temporaries")
PHASES = ("log-probs", "update", "gradients", "optimizer step", "sync", "save")
WARM_UP_PARTS = ("weights", "optimizer", "temporaries")
OF_WARM_UP = ("between steps", "forward", "backward", "optimizer step")


def ranks_of(settings: Settings, chosen: list[int]) -> list[int]:
    """The ranks to rehearse: those that are given, or the first of each pipeline stage.

    Raises:
        UsageError: a rank that the run does not have.
    """
    world = world_size(settings)
    for rank in chosen:
        if not 0 <= rank < world:
            raise UsageError(f"plan.ranks={rank}: the run has ranks 0 to {world - 1}.")
    return chosen or [stage * world // settings.layout.pp for stage in range(settings.layout.pp)]


def rehearse(
    settings: Settings, ranks: Iterable[int], module: str = "megatron_patches.rehearsal", words: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """What one step of each rank takes, rank by rank; `settings` are those of the rl stage, or of the sft stage for
    `stages.sft_rehearsal`. `words`: more arguments of `module`.

    Raises:
        UserError: the code of a rank failed, with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        config = Path(folder) / "config.yaml"
        # Transformer Engine's layers cannot be built without a GPU; the local ones stand in for them.
        model = settings.model.model_copy(update={"backend": "local"})
        local = settings.model_copy(update={"model": model, "rl": without_transformer_engine(settings.rl)})
        config.write_text(yaml.safe_dump(local.model_dump(mode="json")), "utf-8")
        with ThreadPoolExecutor(max_workers=cores()) as pool:
            return list(pool.map(lambda rank: _one(module, config, rank, words), ranks))


def _one(module: str, config: Path, rank: int, words: tuple[str, ...]) -> dict[str, Any]:
    result = config.parent / f"{rank}.json"
    # A process by itself: what stands in for devices and ranks would make a real run wrong. Without GPUs, whatever is here.
    ended = subprocess.run(
        [sys.executable, "-m", module, str(config), str(rank), str(result), *words],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if ended.returncode:
        lines = [line for line in ended.stderr.splitlines() if line.strip()]
        raise UserError(f"The rehearsal of rank {rank} failed, as the run would:\n" + "\n".join(lines[-12:]))
    return json.loads(result.read_text("utf-8"))


def rehearsal(settings: Settings, chosen: list[int]) -> tuple[str, Pace]:
    """Rehearses and describes memory, collectives and waits of each rank, then the seconds of a step. Returns both."""
    found = rehearse(settings, ranks_of(settings, chosen))
    memory = memory_of(settings)
    lines = []
    for rank in found:
        lines += [*_memory_lines(settings, rank, memory), "", *_traffic_lines(rank), ""]
    seconds = pace(settings, found, world_size(settings), data_parallel(settings))
    return "\n".join([*lines, *_pace_lines(settings, seconds)]), seconds


def rehearsal_of_warm_up(settings: Settings, chosen: list[int]) -> str:
    """Rehearses the warm-up and describes the memory of each chosen rank, or of rank 0. `settings` are the sft stage's."""
    planned = sft_memory.estimate(settings, world_size(settings), uses_gpus(settings.cluster))
    device, lines = settings.cluster.device_memory_gib, []
    # On a CPU the pages of a bucket that are never written take no memory.
    bucket = () if uses_gpus(settings.cluster) else (str(min(sft_memory.BUCKET, count(settings.model).total)),)
    for rank in rehearse(settings, chosen or [0], "stages.sft_rehearsal", bucket):
        load = rank["load"]
        lines += [
            f"Rehearsal of the warm-up's rank {rank['rank']}: {load['micro_batches']} micro-batches of {load['sequences']} x"
            f" {load['length']} tokens, ZeRO {settings.sft.zero_stage}, {rank['processor_seconds']:.0f} s of processor time."
            " GiB of the device at each phase's peak:",
            *_phase_lines(rank, OF_WARM_UP, WARM_UP_PARTS),
        ]
        peak = max(phase["peak"] for phase in rank["phases"].values()) + planned.overhead
        lines.append(
            f"  With {planned.overhead / GIB:.1f} for context and allocator: {peak / GIB:.1f} ({planned.peak / GIB:.1f} by the"
            f" estimate); a device has {device:g}"
        )
        if peak > device * GIB:
            lines.append("  WARNING: it does not fit.")
    return "\n".join(lines)


def _phase_lines(rank: dict[str, Any], names: Iterable[str], parts: Sequence[str]) -> list[str]:
    """A table: the peak of each phase that there was, and its parts, in GiB."""
    lines = [f"  {'phase':<15}" + "  ".join(f"{name:>11}" for name in ("peak", *parts))]
    for name in names:
        phase = rank["phases"].get(name)
        if phase is not None:
            sizes = [phase["peak"], *(phase["parts"].get(part, 0) for part in parts)]
            lines.append(f"  {name:<15}" + "  ".join(f"{size / GIB:11.3f}" for size in sizes))
    return lines


def _memory_lines(settings: Settings, rank: dict[str, Any], memory: Memory) -> list[str]:
    load, device = rank["load"], settings.cluster.device_memory_gib
    lines = [
        f"Rehearsal of rank {rank['rank']}: {load['micro_batches']} micro-batches of {load['sequences']} x {load['length']}"
        f" tokens, {rank['processor_seconds']:.0f} s of processor time. GiB of the device at each phase's peak:",
        *_phase_lines(rank, PHASES, PARTS),
    ]
    lines.append(
        f"  on the host, at most {rank['phases']['save']['host_peak'] / GIB:.3f} while a checkpoint is gathered"
    )
    held = sum(rank["phases"]["update"]["parts"].get(part, 0) for part in PARTS[:4])
    held -= sum(rank["phases"]["update"]["parts"].get(part, 0) for part in {*settings.rl.offload})
    lines.append(
        f"  {'generation':<15}{(held + memory.generation) / GIB:11.3f}  of it {memory.generation / GIB:.1f} for the engine"
        + (f"; {', '.join(settings.rl.offload)} parked" if settings.rl.offload else "")
    )
    peak = max([held + memory.generation, *(phase["peak"] for phase in rank["phases"].values())]) + memory.overhead
    lines.append(
        f"  With {memory.overhead / GIB:.1f} for context, communication and allocator: {peak / GIB:.1f}"
        f" ({memory.peak / GIB:.1f} by the estimate); a device has {device:g}"
    )
    if peak > device * GIB:
        lines.append("  WARNING: it does not fit.")
    return lines


def _traffic_lines(rank: dict[str, Any]) -> list[str]:
    lines = [
        "  Of these micro-batches: phase, TFLOP, seconds of operators and of collectives, and what the ranks exchange"
    ]
    for name in PHASES:
        phase = rank["phases"].get(name)
        if phase is None:
            continue
        lines.append(
            f"  {name:<15}{phase['flops'] / 1e12:11.3f}{phase['seconds']:11.3f}{phase['exchange_seconds']:11.3f}"
        )
        lines += [
            f"      {operation} over {group}: {times} times, {size / GIB:.3f} GiB"
            for group, operation, times, size in phase["collectives"]
        ]
        lines += [f"      the host waits {times} times: {where}" for where, times in list(phase["waits"].items())[:6]]
    return lines


def _pace_lines(settings: Settings, found: Pace) -> list[str]:
    speed, world = settings.cluster.speed, world_size(settings)
    lines = [
        f"One RL step of {settings.rl.prompts_per_step * settings.rl.group_size} full-length responses on {world} devices, by"
        f" cluster.speed ({speed.tflops:g} TFLOP/s at {speed.efficiency:g}, {speed.memory_gb_s:g} GB/s,"
        f" {speed.link_gb_s:g} in a node, {speed.network_gb_s:g} between nodes):"
    ]
    if chosen_engine(settings) == "native":
        return [
            *lines,
            f"  log-probs {found.logprobs:.1f} s, update {found.update:.1f} s; the native engine's sampling is not modelled",
        ]
    lines.append(
        f"  generation {found.generation:.1f} s, log-probs {found.logprobs:.1f} s, update {found.update:.1f} s, sync"
        f" {found.sync:.1f} s: {found.step:.1f} s, {found.tokens_per_second:.0f} tokens/s/GPU;"
        f" MFU of the update {found.mfu:.0%}"
    )
    known = published(settings, world)
    return [*lines, f"  {known}"] if known else lines
