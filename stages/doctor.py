"""Is this machine ready? Versions beside their pins, devices, disk and memory, and the patches to megatron-core.

The check of the machine also runs where packages are missing (a container's Python, `ETR_PYTHON`), because naming them is
its purpose. `check=gpu` and `check=cluster` are in `stages/checks`.
"""

import importlib.util
import os
import platform
import shutil
import sys

from pipeline.common.errors import InputError
from pipeline.run import environment, machines
from pipeline.run.door import ROOT
from pipeline.run.summary import revision, versions
from pipeline.stage import StageRun, run_stage

GIB = 2**30
EXTRAS = ("vllm", "transformer_engine", "flash_attn", "gguf")


def main(run: StageRun) -> dict:
    check = run.settings.doctor.check
    if check == "machine":
        return check_machine(run)
    # Imported here: the machine's own check runs where torch is missing.
    if check == "cluster":
        from stages.checks import cluster

        return cluster.main(run)
    from stages.checks import gpu

    return gpu.main(run)


def check_machine(run: StageRun) -> dict:
    """Prints what this machine has; raises InputError if packages or patches do not fit."""
    missing, changed = environment.missing(), differing_pins()
    patched, problem = patches()
    for title, lines in (
        ("Machine", [*machine(), *devices()]),
        (
            "Environment",
            [*interpreter(), *extras(), *layers(), *(f"other version        {change}" for change in changed)],
        ),
        ("Versions", [f"{name:<20} {version or 'not installed'}" for name, version in versions().items()]),
        ("Patches", patched),
    ):
        run.log(title)
        for line in lines:
            run.log(f"  {line}")
    if missing:
        raise InputError(f"Packages are missing: {' '.join(missing)}\n{cure()}")
    if problem:
        raise InputError(f"{problem}\n{cure()}")
    if changed and not may_differ():
        raise InputError(f"The environment differs from requirements/: {'; '.join(changed)}\n{cure()}")
    run.log("Ready.")
    return {}


def machine() -> list[str]:
    """Python, system, cores, memory, disk, compiler."""
    disk = shutil.disk_usage(ROOT)
    return [
        f"python               {platform.python_version()} ({sys.executable})",
        f"system               {platform.platform()}",
        f"cores                {machines.cores()} usable of {os.cpu_count()}",
        f"memory               {memory()}",
        f"disk                 {disk.free / GIB:.1f} of {disk.total / GIB:.1f} GiB free at {ROOT}",
        f"C++ compiler         {shutil.which('g++') or shutil.which('c++') or 'not found (the CPU path needs no compiler)'}",
        f"git revision         {revision() or 'not a checkout'}",
    ]


def memory() -> str:
    try:
        import psutil
    except ImportError:
        return "unknown: psutil is missing"
    found = psutil.virtual_memory()
    return f"{found.available / GIB:.1f} of {found.total / GIB:.1f} GiB available"


def devices() -> list[str]:
    """GPUs as the driver and as torch see them."""
    listing = machines.gpu_names()
    if machines.gpu_count() == 0:
        return ["devices              no NVIDIA GPU: ranks run on CPU over gloo"]
    rows = [f"device               {line}" for line in listing]
    try:
        import torch
    except ImportError:
        return [*rows, "torch sees           nothing: torch is missing"]
    seen = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [
        *rows,
        f"torch sees           {seen} GPUs, CUDA {torch.version.cuda}" + ("" if seen else ": a CPU build of torch"),
    ]


def interpreter() -> list[str]:
    """Where the packages come from."""
    if os.environ.get("ETR_PYTHON"):
        return [f"interpreter          ETR_PYTHON={sys.executable}: used as it is, nothing is installed into it"]
    return [f"interpreter          {environment.VENV}"]


def extras() -> list[str]:
    """What is installed beyond the lock, and what could not be."""
    found = [name for name in EXTRAS if importlib.util.find_spec(name)]
    rows = [f"extras               {', '.join(found) or 'not installed'}"]
    if os.environ.get("ETR_PYTHON"):
        return rows
    return rows + [
        f"failed               {layer}: the reason is in {environment.VENV / 'set-up.log'};"
        f" to try again, rm {environment.stamp(layer, failed=True)}"
        for layer in environment.OPTIONAL
        if environment.is_ready(layer, failed=True)
    ]


def layers() -> list[str]:
    """Which layers `model.backend=auto` means here."""
    try:
        from megatron_patches.model import specs

        why = specs.unusable()
    except ImportError as error:
        return [f"layers               unknown: {error}"]
    return [f"layers               {'transformer-engine' if why is None else f'local: {why}'} (model.backend=auto)"]


def differing_pins() -> list[str]:
    """Packages that are installed in another version than requirements/ pins."""
    found = {name: environment.installed(name) for name in environment.pins()}
    return [
        f"{name} is {found[name]}, requirements/ has {version}"
        for name, version in environment.pins().items()
        if found[name] not in (None, version)
    ]


def may_differ() -> bool:
    """True where other versions are expected: a chosen interpreter, or an extra that changed some (vLLM: numpy)."""
    layers = ("gpu-vllm", "gpu-te", "cpu-vllm")
    return bool(os.environ.get("ETR_PYTHON")) or any(environment.is_ready(layer) for layer in layers)


def cure() -> str:
    """What to do about packages that are missing or differ."""
    if os.environ.get("ETR_PYTHON"):
        return f"Install them: {sys.executable} -m pip install --no-deps <package>==<version>"
    return f"Make the environment again: rm -r {environment.VENV} && bash run.sh stage=doctor"


def patches() -> tuple[list[str], str | None]:
    """What this project changes in megatron-core, and what is wrong if it does not fit the installed one."""
    try:
        from megatron_patches.upstream import registry

        rows = registry.report()
    except ImportError as error:
        return [f"do not fit           {error}"], str(error)
    return [f"{row['name']:<20} {row['status']:<10} {row['upstream']}: {row['reason']}" for row in rows], None


if __name__ == "__main__":
    run_stage(main)
