"""A rung that runs the tiny preset's stages on the device, kills the training in the middle, and continues it.

The stages are started as `run.sh` starts them once the environment exists, in this very interpreter, so that no environment is
made. The warm-up is left out: it would need DeepSpeed.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from pipeline.common.files import read_jsonl
from pipeline.run.door import ROOT
from stages.checks.ladder import Found

STEPS = 6
SMALL = (
    "model=tiny", "cluster.devices_per_node=1", "layout.tp=1", "sft.enabled=false", "rollout.engine=native",
    "data.arithmetic.train=64", "data.arithmetic.held_out=16", "rollout.max_new_tokens=24",
    f"rl.steps={STEPS}", "rl.prompts_per_step=8", "rl.group_size=4", "rl.minibatches=2", "rl.epochs=1", "rl.save_every=1",
    "verify.workers=1", "evaluate.k=2",
)  # fmt: skip
"""A run of seconds: 0.6 million parameters, random at first."""


def pipeline(folder: Path, cluster: list[str], limit_s: float) -> Found:
    """preprocess, convert, rl (killed after its first checkpoint, then continued), evaluate and export.

    Args:
        folder: where the run's files go.
        cluster: the words that choose the device.
    """
    root = folder / "tiny"
    deadline = time.monotonic() + limit_s
    words = [*SMALL, *cluster, f"runs_dir={folder}", "name=tiny"]
    for stage in ("preprocess", "convert"):
        _run(stage, words, deadline)
    latest = root / "checkpoints" / "latest_checkpointed_iteration.txt"
    killed = _kill_when(latest.exists, _start("rl", words), deadline)
    out = _run("rl", words, deadline)
    continued = "continuing after step" in out
    for stage in ("evaluate", "export"):
        _run(stage, words, deadline)
    steps = [row["step"] for row in read_jsonl(root / "metrics.jsonl")]
    whole = steps == list(range(1, STEPS + 1))
    exported = (root / "export" / "hf" / "model.safetensors").exists()
    got = (
        f"{'killed and continued' if killed and continued else 'NOT continued'}; steps {steps};"
        f" {'exported' if exported else 'NOT exported'}"
    )
    return Found(
        f"steps 1 to {STEPS} once each in spite of a kill, and an export",
        got,
        killed and continued and whole and exported,
    )


def _start(stage: str, words: list[str]) -> "subprocess.Popen[str]":
    own = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # of this process, a world of one
    kept = {name: value for name, value in os.environ.items() if name not in own and not name.startswith("ETR_")}
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline.run.cli", f"stage={stage}", *words],
        cwd=ROOT, env=kept, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def _run(stage: str, words: list[str], deadline: float) -> str:
    """A stage to its end; returns what it printed. Raises RuntimeError with the end of its error."""
    process = _start(stage, words)
    try:
        out, err = process.communicate(timeout=max(deadline - time.monotonic(), 1))
    finally:
        process.kill()  # its ranks end with it
        process.wait()
    if process.returncode:
        raise RuntimeError(f"stage={stage} ended with {process.returncode}: {(err.strip().splitlines() or [''])[-1]}")
    return out


def _kill_when(condition: Callable[[], bool], process: "subprocess.Popen[str]", deadline: float) -> bool:
    """Kills the process as soon as the condition holds; False if it ended before or the time was up."""
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if condition():
                return True
            time.sleep(0.02)
        return False
    finally:
        process.kill()
        process.communicate()
