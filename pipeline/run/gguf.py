"""`model=<file>.gguf`: the file is made into a Hugging Face folder beside it, once, and the folder takes its place.

The conversion runs in a process of its own (`python -m pipeline.models.gguf`), because the command line never imports torch.
"""

import fcntl
import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from pipeline.common.errors import InputError, UsageError
from pipeline.common.files import read_json
from pipeline.run import door
from pipeline.run.environment import LAYERS, pins

MAGIC = b"GGUF"
STAMP = "gguf.json"
"""In the folder: which file it was made of."""
PACKAGES = ("gguf", "accelerate")


def with_folders(words: list[str], say: Callable[[str], None]) -> list[str]:
    """The command line, with the folder of each GGUF file that `model=` or `model.path=` names in its place.

    Raises:
        UsageError: a package that reads GGUF files is missing.
        InputError: a file is missing, is no GGUF file, or cannot be read.
    """
    return [_with_folder(word, say) for word in words]


def _with_folder(word: str, say: Callable[[str], None]) -> str:
    key, _, value = word.partition("=")
    if key not in ("model", "model.path") or not door.is_gguf(value):
        return word
    return f"{key}={folder_of(door.typed(value).absolute(), say)}"


def folder_of(file: Path, say: Callable[[str], None]) -> Path:
    """The Hugging Face folder of a GGUF file, made if there is none, or if the file has changed since."""
    check(file)
    folder = file.with_name(f"{file.name[: -len('.gguf')]}-gguf")
    if is_made(folder, file):
        return folder
    if folder.exists() and not (folder / STAMP).is_file():
        raise InputError(f"{file} is made into the folder {folder}, and that holds something else. Move one of them.")
    check_packages(file)
    with open(folder.with_name(f".{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the nodes of a cluster start the same command at once
        if not is_made(folder, file):
            say(f"making {folder} of {file} (once)")
            say(make(folder, file))
    return folder


def is_made(folder: Path, file: Path) -> bool:
    """Whether `folder` was made of the file as it is now."""
    state = file.stat()
    wanted = {"size": state.st_size, "changed_ns": state.st_mtime_ns}
    return (folder / STAMP).is_file() and read_json(folder / STAMP) == wanted


def make(folder: Path, file: Path) -> str:
    """Makes the folder in another process, and returns what that says. Raises InputError with its message if it fails."""
    words = [sys.executable, "-m", "pipeline.models.gguf", str(file), str(folder)]
    done = subprocess.run(words, cwd=door.ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode == InputError.exit_code:
        raise InputError(done.stdout.strip())
    if done.returncode:
        raise InputError(f"{file} could not be read:\n" + "\n".join(done.stderr.strip().splitlines()[-8:]))
    return done.stdout.strip()


def check(file: Path) -> None:
    """Raises InputError where `file` cannot be a GGUF file."""
    if not file.is_file():
        raise InputError(f"{file}: there is no such file")
    with open(file, "rb") as opened:
        start = opened.read(len(MAGIC))
    if start != MAGIC:
        raise InputError(f"{file} is not a GGUF file: it begins with {start!r} instead of {MAGIC!r}")


def check_packages(file: Path) -> None:
    """Raises UsageError if a package that reads GGUF files is not installed here."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        wanted = " ".join(f"{name}=={version}" for name, version in pins(*LAYERS["gguf"]).items())
        raise UsageError(
            f"model={file}: GGUF files are read with {' and '.join(PACKAGES)}, and {' and '.join(missing)} is not installed."
            f" Repeat the command with ETR_EXTRAS=gguf before it, which installs them, or: {sys.executable} -m pip install"
            f" {wanted}"
        )
