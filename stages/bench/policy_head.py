"""`stage=bench what=policy_head`: the head beside the naive way, on the same work in the same run.

On CPU: the naive way, both modes in one process with all cores, and both modes on two tensor-parallel gloo ranks that
share the cores. On CUDA, in bf16 on one GPU: also the naive way compiled. Every measurement is a separate process
(measure.py); the variants take turns, so that a slow minute of the machine does not fall on one of them alone.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from pipeline.settings import Settings
from stages.bench.policy_head_measure import Case, Measured

ROOT = Path(__file__).resolve().parents[2]

PRODUCTS = {"naive": 3, "compiled": 3, "recompute": 4, "fused": 3, "fused16": 3}
"""Matrix products of 2 T H V operations each."""

Row = dict[str, Any]


def bench(settings: Settings, console: Console | None = None) -> dict[str, Any]:
    """Measures forward and backward at `settings.bench.{tokens,hidden,vocab}`, `repeats` times; prints a table.

    Returns a JSON-ready dict: the setting, and a row for each variant with its seconds (median and all), peak memory
    beyond inputs and gradients in MB (1e6 bytes), ratio to the naive time of the same turn (median), processor seconds
    of one rank and their ratio (the steadier number on a busy machine), and share of the GEMM rate measured in the
    same process. A variant that does not fit into memory gets a row that says so.
    """
    size, console = settings.bench, console or Console()
    cases = _cases(settings)
    results: dict[str, list[Measured | str]] = {name: [] for name in cases}
    for turn in range(size.repeats):
        for name, case in cases.items():
            if any(isinstance(result, str) for result in results[name]):
                continue  # it failed before: memory does not grow back
            console.print(f"[dim]{turn + 1}/{size.repeats} {name}[/dim]", highlight=False)
            results[name].append(run_case(case))
    rows = [_row(name, cases[name], outcome) for name, outcome in results.items()]
    for row in rows:
        row["ratio_to_naive"] = _ratio(results[row["name"]], results["naive"], "seconds")
        row["cpu_ratio_to_naive"] = _ratio(results[row["name"]], results["naive"], "cpu_seconds")
    first = next(iter(cases.values()))
    report = {
        "what": "policy_head", "device": first.device, "dtype": first.dtype, "threads": first.threads,
        "tokens": size.tokens, "hidden": size.hidden, "vocab": size.vocab, "repeats": size.repeats, "rows": rows,
        "samples": {
            name: seconds
            for name, some in results.items()
            if (seconds := [m.seconds for m in some if isinstance(m, Measured)])
        },
    }  # fmt: skip
    console.print(_table(report))
    return report


def run_case(case: Case) -> Measured | str:
    """Measures in fresh processes, one for each rank; the slowest and largest rank counts. A string says what failed."""
    env = os.environ | {"OMP_NUM_THREADS": str(case.threads)}
    with tempfile.TemporaryDirectory() as folder:
        ranks = [replace(case, rank=rank, store=f"{folder}/store") for rank in range(case.tp)]
        command = [sys.executable, "-m", "stages.bench.policy_head_measure"]
        processes = [
            subprocess.Popen(
                [*command, json.dumps(asdict(rank))],
                cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for rank in ranks
        ]  # fmt: skip
        try:
            outputs = [process.communicate() for process in processes]
        finally:
            for process in processes:
                process.kill()
    for process, (_, errors) in zip(processes, outputs, strict=True):
        if process.returncode != 0:
            return (errors.strip().splitlines() or ["killed, most likely for memory"])[-1][:200]
    measured = [Measured(**json.loads(text.strip().splitlines()[-1])) for text, _ in outputs]
    return Measured(
        seconds=max(m.seconds for m in measured),
        cpu_seconds=max(m.cpu_seconds for m in measured),
        peak_bytes=max(m.peak_bytes for m in measured),
        gemm_flops=statistics.mean(m.gemm_flops for m in measured),
        checksum=measured[0].checksum,
    )


def _cases(settings: Settings) -> dict[str, Case]:
    size = settings.bench
    cuda = settings.cluster.device != "cpu" and torch.cuda.is_available()
    cores = len(os.sched_getaffinity(0))
    base = Case(
        variant="naive", tokens=size.tokens, hidden=size.hidden, vocab=size.vocab,
        device="cuda" if cuda else "cpu", dtype="bfloat16" if cuda else "float32", threads=cores,
        repeats=5 if cuda else 1,
    )  # fmt: skip
    if cuda:
        return {name: replace(base, variant=name) for name in PRODUCTS}
    cases = {name: replace(base, variant=name) for name in ("naive", "recompute", "fused")}
    if cores > 1 and size.vocab % 2 == 0:
        for name in ("recompute", "fused"):
            cases[f"{name}, TP 2"] = replace(base, variant=name, tp=2, threads=cores // 2)
    return cases


def _ratio(own: list[Measured | str], naive: list[Measured | str], field: str) -> float | None:
    """Median over the turns of a time to the naive one of the same turn; None where either failed."""
    ratios = [
        getattr(a, field) / getattr(b, field)
        for a, b in zip(own, naive, strict=False)
        if isinstance(a, Measured) and isinstance(b, Measured)
    ]
    return statistics.median(ratios) if ratios else None


def _row(name: str, case: Case, outcome: list[Measured | str]) -> Row:
    failed = next((result for result in outcome if isinstance(result, str)), None)
    done = [result for result in outcome if isinstance(result, Measured)]
    row: Row = {"name": name, "variant": case.variant, "tp": case.tp, "failed": failed, "seconds": None}
    if failed is not None or not done:
        return row
    operations = PRODUCTS[case.variant] * 2 * case.tokens * case.hidden * case.vocab / case.tp
    return row | {
        "seconds": statistics.median(m.seconds for m in done),
        "all_seconds": [round(m.seconds, 3) for m in done],
        "cpu_seconds": statistics.median(m.cpu_seconds for m in done),
        "peak_mb": max(m.peak_bytes for m in done) / 1e6,
        "operations": operations,
        "gemm_gflops": statistics.median(m.gemm_flops for m in done) / 1e9,
        "gemm_share": statistics.median(operations / m.seconds / m.gemm_flops for m in done),
        "checksum": done[0].checksum,
    }


def _table(report: dict[str, Any]) -> Table:
    title = "Policy head: T {tokens:,}, H {hidden:,}, V {vocab:,}, {dtype}, {device}, median of {repeats}"
    table = Table(title=title.format(**report))
    table.add_column("variant", no_wrap=True)
    for heading in ("seconds", "to naive", "CPU s", "to naive", "MB beyond", "GEMM GFLOP/s", "share"):
        table.add_column(heading, justify="right")
    for row in report["rows"]:
        if row["seconds"] is None:
            table.add_row(row["name"], row["failed"] or "not run")
            continue
        wall, cpu = ("" if row[key] is None else f"{row[key]:.2f}" for key in ("ratio_to_naive", "cpu_ratio_to_naive"))
        table.add_row(
            row["name"], f"{row['seconds']:.2f}", wall, f"{row['cpu_seconds']:.1f}", cpu, f"{row['peak_mb']:.0f}",
            f"{row['gemm_gflops']:.0f}", f"{row['gemm_share']:.0%}",
        )  # fmt: skip
    return table
