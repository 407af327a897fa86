"""`stage=bench what=verifier`: how fast answers are graded, by layer, in a pool, and beside math-verify.

The responses are made here, from a seed: GSM8K-like ones end in a number, MATH-like ones in a boxed answer of any of
the usual kinds; about half are right, as on a model that learns. Real ones are used where `ETR_BENCH_ROWS` names a JSONL
file of `{response, gold}`. math-verify runs on the same rows in the same run, in its own interpreter
(`bench.peer_python=`), because it cannot be installed beside latex2sympy2.
"""

import json
import os
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.settings import Settings
from pipeline.verify import VerifierPool
from pipeline.verify.comparing import symbolic
from pipeline.verify.grading import gold_answer, gold_answers, grade_pair
from pipeline.verify.types import DEFAULT
from stages.bench.math_verify import math_verify
from stages.bench.verifier_rows import Pair, gsm8k_like, math_like

POOL_ROWS = 20_000
POOL_WORKERS = 2


def bench(settings: Settings, console: Console | None = None) -> dict[str, Any]:
    """Grades `settings.bench.rows` rows of each kind and prints a table.

    Returns a JSON-ready dict: `rows` with, for each kind, the share graded right, `rows_s`, milliseconds of the median
    and the 95th percentile, and the same by layer; `pool` with the seconds for 20,000 rows in two workers; `peer` with
    math-verify's `rows_s`, the quotient of the two and the share of verdicts that agree, or None without a peer.
    """
    console = console or Console()
    symbolic.load()
    kinds = _rows(settings.bench.rows)
    report: dict[str, Any] = {"what": "verifier", "rows": {}, "pool": None, "peer": {}}
    for kind, pairs in kinds.items():
        report["rows"][kind] = _in_process(pairs, settings.bench.repeats)
        if settings.bench.peer_python:
            report["peer"][kind] = _peer(settings.bench.peer_python, pairs, report["rows"][kind])
    report["pool"] = _pool(settings.bench.repeats)
    report["samples"] = {kind: row["passes"] for kind, row in report["rows"].items()} | {"pool": report["pool"]["all"]}
    for row in report["rows"].values():
        del row["verdicts"], row["passes"]
    console.print(_table(report))
    return report


def _rows(count: int) -> dict[str, list[Pair]]:
    given = os.environ.get("ETR_BENCH_ROWS")
    if given:
        with open(given, encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        return {Path(given).name: [(str(row["response"]), str(row["gold"])) for row in rows][:count]}
    return {"GSM8K-like": gsm8k_like(count), "MATH-like": math_like(count)}


def _in_process(pairs: list[Pair], repeats: int) -> dict[str, Any]:
    """Each row's time is its median over `repeats` passes; what is remembered of golds is forgotten between them."""
    grades = [grade_pair(response, gold, DEFAULT, symbolic.ask) for response, gold in pairs]
    taken: list[list[float]] = [[] for _ in pairs]
    passes = []
    for _ in range(repeats):
        gold_answers.cache_clear()
        gold_answer.cache_clear()
        symbolic.forget()
        started = time.process_time()
        for k, (response, gold) in enumerate(pairs):
            before = time.perf_counter()
            grade_pair(response, gold, DEFAULT, symbolic.ask)
            taken[k].append(time.perf_counter() - before)
        passes.append(time.process_time() - started)
    milliseconds = [statistics.median(times) * 1e3 for times in taken]
    layers: dict[str, list[float]] = defaultdict(list)
    for grade, ms in zip(grades, milliseconds, strict=True):
        layers[grade.layer].append(ms)
    return {
        "count": len(pairs),
        "right": statistics.fmean(grade.correct for grade in grades),
        "rows_s": len(pairs) / statistics.median(passes),
        **_spread(milliseconds),
        "layers": {name: {"count": len(ms), **_spread(ms)} for name, ms in sorted(layers.items())},
        "passes": passes,
        "verdicts": [grade.correct for grade in grades],
    }


def _spread(milliseconds: list[float]) -> dict[str, float]:
    ordered = sorted(milliseconds)
    return {"median_ms": statistics.median(ordered), "p95_ms": ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]}


def _pool(repeats: int) -> dict[str, Any]:
    """Seconds for 20,000 GSM8K-like rows in two workers, all different and without the cache; starting not counted."""
    pairs = gsm8k_like(POOL_ROWS)
    seconds = []
    with VerifierPool(POOL_WORKERS, cache_size=0) as pool:
        pool.grade_many(pairs[:1000])
        for _ in range(repeats):
            started = time.perf_counter()
            pool.grade_many(pairs)
            seconds.append(time.perf_counter() - started)
    return {"count": POOL_ROWS, "workers": POOL_WORKERS, "seconds": statistics.median(seconds), "all": seconds}


def _peer(python: str, pairs: list[Pair], ours: dict[str, Any]) -> dict[str, Any]:
    """math-verify on the same rows."""
    theirs = math_verify("bench.peer_python", python, pairs)
    agree = statistics.fmean(a == b for a, b in zip(theirs.pop("verdicts"), ours["verdicts"], strict=True))
    return {**theirs, "times_as_fast": ours["rows_s"] / theirs["rows_s"], "agree": agree}


def _table(report: dict[str, Any]) -> Table:
    table = Table(title="Verifier: milliseconds an answer, one process")
    table.add_column("rows", no_wrap=True)
    for heading in ("layer", "count", "median", "p95", "rows/s", "math-verify"):
        table.add_column(heading, justify="right")
    for kind, row in report["rows"].items():
        peer = report["peer"].get(kind)
        beside = "{rows_s:.0f} rows/s, we are {times_as_fast:.1f}x".format(**peer) if peer else ""
        counts = (f"{row['count']:,}", f"{row['median_ms']:.3f}", f"{row['p95_ms']:.3f}")
        table.add_row(kind, "all", *counts, f"{row['rows_s']:,.0f}", beside)
        for layer, part in row["layers"].items():
            table.add_row("", layer, f"{part['count']:,}", f"{part['median_ms']:.3f}", f"{part['p95_ms']:.3f}", "", "")
    pool = report["pool"]
    table.caption = "{count:,} GSM8K-like rows in {workers} workers: {seconds:.2f} s".format(**pool)
    return table
