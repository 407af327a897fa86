"""The processors of this machine; no torch, because importing it takes seconds."""

import os
import platform
import re
import shutil
import subprocess
from functools import lru_cache
from pathlib import Path


def gpu_count() -> int:
    """NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "none", "NoDevFiles"):
        return 0
    present = len(gpu_names())
    return min(present, len(visible.split(","))) if visible is not None else present


def gpu_names() -> tuple[str, ...]:
    """NVIDIA GPUs of this machine as its driver lists them."""
    return _listed(shutil.which("nvidia-smi"))


@lru_cache(maxsize=4)
def _listed(tool: str | None) -> tuple[str, ...]:
    """What the driver's tool lists; asked once, because each call takes up to a second."""
    if tool is None:
        return ()
    result = subprocess.run([tool, "-L"], capture_output=True, text=True)
    lines = result.stdout.splitlines() if result.returncode == 0 else []
    return tuple(line.partition(" (UUID")[0].strip() for line in lines if line.startswith("GPU "))


def gpu_memories() -> tuple[float, ...]:
    """Memory of each GPU that this process may use, in GiB as the driver states it; empty if it states none."""
    tool = shutil.which("nvidia-smi")
    sizes = () if tool is None else _memories(tool)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return sizes
    chosen = [int(part) for part in visible.split(",") if part.strip().isdigit()]
    return tuple(sizes[i] for i in chosen if i < len(sizes)) or sizes


@lru_cache(maxsize=4)
def _memories(tool: str) -> tuple[float, ...]:
    command = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    result = subprocess.run(command, capture_output=True, text=True)
    rows = result.stdout.split() if result.returncode == 0 else []
    return tuple(float(row) / 1024 for row in rows if re.fullmatch(r"[0-9]+(\.[0-9]+)?", row))


def processor() -> str:
    """The CPU's name, or its architecture if the system does not give one."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M)
    except OSError:
        found = None
    return found[1] if found else platform.machine()


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
