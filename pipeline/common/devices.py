"""The processors of this machine; no torch, because importing it takes seconds."""

import os
import shutil
import subprocess
from functools import lru_cache


def gpu_count() -> int:
    """NVIDIA GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1", "none", "NoDevFiles"):
        return 0
    present = _installed_gpus(shutil.which("nvidia-smi"))
    return min(present, len(visible.split(","))) if visible is not None else present


@lru_cache(maxsize=4)
def _installed_gpus(tool: str | None) -> int:
    """GPUs that the driver's tool lists; asked once, because each call takes up to a second."""
    if tool is None:
        return 0
    result = subprocess.run([tool, "-L"], capture_output=True, text=True)
    return sum(line.startswith("GPU ") for line in result.stdout.splitlines()) if result.returncode == 0 else 0


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
