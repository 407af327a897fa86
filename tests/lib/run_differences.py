"""What differs between two runs that should have ended the same: weights, optimizer, metrics, samples and file names."""

import re
from pathlib import Path
from typing import Any

import torch
from house import rows

HARMLESS = re.compile(r"(^|/)(logs|outcome|tensorboard)(/|$)|\.lock$")
"""Files whose number depends on how often a run was started."""


def differences(root: Path, straight: Path, stage: str) -> list[str]:
    """What differs between a run that was disturbed and the undisturbed one."""
    found = []
    one, other = (
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} for folder in (root, straight)
    )
    found += [f"a file too many: {name}" for name in sorted(one - other) if not HARMLESS.search(name)]
    found += [f"a file is missing: {name}" for name in sorted(other - one) if not HARMLESS.search(name)]
    for name in sorted(one & other):
        path, twin = root / name, straight / name
        if not name.startswith((f"{stage}/", "checkpoints/", "samples", "metrics.jsonl")) or HARMLESS.search(name):
            continue
        if path.name in ("metrics.jsonl", "samples.jsonl"):
            same = rows(path) == rows(twin)
        elif path.suffix == ".pt":
            same = _same(*(torch.load(file, weights_only=False) for file in (path, twin)))
        else:
            same = path.suffix not in (".distcp", ".safetensors") or path.read_bytes() == twin.read_bytes()
        if not same:
            found.append(f"{name} differs")
    return found


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.equal(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return type(one) is type(other) and (one == other or hasattr(one, "__dict__"))
