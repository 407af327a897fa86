"""Is this machine ready? Versions against their pins, devices, disk and memory, and the patches to megatron-core."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys

import psutil
import torch

from pipeline.common.errors import InputError
from pipeline.run import environment, machines
from pipeline.run.door import ROOT
from pipeline.run.summary import revision, versions
from pipeline.stage import StageRun, run_stage

GIB = 2**30


def main(run: StageRun) -> dict:
    rows = [*machine(), *devices()]
    problems = differing_pins()
    if any(environment.is_ready(extra) for extra in ("gpu", "cpu-vllm")):
        rows += [f"changed by an extra  {problem}" for problem in problems if "missing" not in problem]
        problems = [problem for problem in problems if "missing" in problem]  # vLLM asks for an older numpy, for one
    for title, lines in (
        ("Machine", rows),
        ("Versions", [f"{name:<20} {version or '-'}" for name, version in versions().items()]),
        ("Patches", patches()),
    ):
        run.log(title)
        for line in lines:
            run.log(f"  {line}")
    if problems:
        raise InputError(
            "The environment differs from requirements/: " + "; ".join(problems) + "\nMake it anew: rm -r .venv && bash"
            " run.sh stage=doctor"
        )
    run.log("Ready.")
    return {}


def machine() -> list[str]:
    """Python, system, cores, memory, disk, compiler."""
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(ROOT)
    return [
        f"python               {platform.python_version()} ({sys.executable})",
        f"system               {platform.platform()}",
        f"cores                {machines.cores()} usable of {os.cpu_count()}",
        f"memory               {memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB available",
        f"disk                 {disk.free / GIB:.1f} of {disk.total / GIB:.1f} GiB free at {ROOT}",
        f"C++ compiler         {shutil.which('g++') or shutil.which('c++') or 'none (not needed by the CPU path)'}",
        f"git revision         {revision() or 'not a checkout'}",
    ]


def devices() -> list[str]:
    """GPUs as the driver and as torch see them."""
    count = machines.gpu_count()
    if count == 0:
        return ["devices              no NVIDIA GPU: ranks run on CPU over gloo"]
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.strip().splitlines()
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    engines = [name for name in ("vllm", "transformer_engine") if importlib.util.find_spec(name)]
    return [
        *(f"device               {line}" for line in listing),
        f"torch sees           {seen} GPUs, CUDA {torch.version.cuda}" + ("" if seen else ": a CPU build of torch"),
        f"GPU extras           {', '.join(engines) or 'none installed'}",
    ]


def differing_pins() -> list[str]:
    """Packages that are installed in another version than requirements/ pins, or not at all."""
    problems = []
    for file in ("torch.txt", "cpu.txt"):
        for line in (ROOT / "requirements" / file).read_text().splitlines():
            name, pin, wanted = line.partition("==")
            if not pin or line.startswith("#"):
                continue
            try:
                found = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                problems.append(f"{name} {wanted} is missing")
                continue
            if found.partition("+")[0] != wanted:
                problems.append(f"{name} is {found}, not {wanted}")
    return problems


def patches() -> list[str]:
    """What this project changes in megatron-core, and whether it fits the installed one."""
    from megatron_patches.upstream import registry

    return [f"{row['name']:<20} {row['status']:<10} {row['upstream']}: {row['reason']}" for row in registry.report()]


if __name__ == "__main__":
    run_stage(main)
