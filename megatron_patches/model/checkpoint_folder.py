"""The folder of a run's checkpoints: which iterations it holds, which is the newest, and whether their files are whole.

It holds `iter_0000020/` and `latest_checkpointed_iteration.txt`, as Megatron-LM writes them. Each iteration holds
`checksums.json`, made as it was saved; folders of other programs have none and are read unchecked.
"""

import json
import re
import shutil
import zlib
from pathlib import Path

import torch.distributed as dist

from pipeline.common.errors import InputError
from pipeline.common.files import clear_temporary, write_json, write_text

LATEST = "latest_checkpointed_iteration.txt"
FIRST = ".first"
"""The iteration that is about to be named by a `latest` file that is not there yet. A kill between the two is no lost file."""
SUMS = "checksums.json"
DATA = ".distcp"
"""Ending of the files that ranks write, each its own."""
BLOCK = 1 << 20


def iteration_folder(root: Path, iteration: int) -> Path:
    return root / f"iter_{iteration:07d}"


def iterations(root: Path) -> list[int]:
    """The iterations under `root`, oldest first."""
    found = (re.fullmatch(r"iter_(\d{7,})", path.name, re.ASCII) for path in root.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in found if match)


def latest_iteration(root: Path) -> int | None:
    """The newest iteration under `root` by its `latest` file, or None where there is no checkpoint at all.

    Raises InputError when the file does not name an iteration that is there, or is missing beside iterations.
    """
    tracker = root / LATEST
    there = iterations(root)
    try:
        text = tracker.read_bytes().decode("utf-8", "backslashreplace").strip()
    except FileNotFoundError:
        if not there or _was_first(root, there[-1]):
            return there[-1] if there else None
        raise InputError(
            f"{root} holds iterations {_listed(there)}, but {LATEST} is missing, so it is not clear where to continue. "
            f"To continue from the newest: echo {there[-1]} > '{tracker}'. To start again, move {root} away."
        ) from None
    except OSError as error:
        raise InputError(f"{tracker} cannot be read: {error.strerror or error}") from error
    if not re.fullmatch(r"\d{1,12}", text, re.ASCII) or not iteration_folder(root, int(text)).is_dir():
        cure = f"echo {there[-1]} > '{tracker}'" if there else "delete the file to start again"
        raise InputError(
            f"{tracker} says {text!r}, but {root} has no such iteration; it has {_listed(there)}. "
            f"Name one that is there: {cure}"
        )
    return int(text)


def _was_first(root: Path, newest: int) -> bool:
    """Whether a kill came before the `latest` file was ever written."""
    try:
        return int((root / FIRST).read_text()) >= newest
    except (OSError, ValueError):
        return False


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers)) or "none"


def clear_unfinished(root: Path) -> None:
    """Deletes what saves that were killed left behind (on rank 0; nothing else reads those folders and files)."""
    if not root.is_dir():
        return
    for path in root.glob(".iter_*.writing"):
        shutil.rmtree(path, ignore_errors=True)
    clear_temporary(root)


def sum_of(path: Path) -> tuple[int, int]:
    """Size and CRC-32 of a file, read in blocks."""
    size = total = 0
    block = memoryview(bytearray(BLOCK))  # one for all: fresh memory for each would cost as much as a read
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(block):
            size += count
            total = zlib.crc32(block[:count], total)
    return size, total


def write_sums(folder: Path, sums: dict[str, tuple[int, int]]) -> None:
    """Writes the sums of `folder`'s files beside them. `sums` are those of the files that ranks wrote, made while they were
    still in memory; the others are summed here."""
    others = {path.name: sum_of(path) for path in folder.iterdir() if not path.name.endswith(DATA)}
    write_json(folder / SUMS, dict(sorted((sums | others).items())))


def damage(folder: Path) -> str | None:
    """What is wrong with the files of `folder` by its sums, the same on all ranks (a collective); None if nothing is, or
    if it has no sums. The ranks share out the files."""
    try:
        sums = json.loads((folder / SUMS).read_bytes())
        entries = [(str(name), (int(size), int(total))) for name, (size, total) in sorted(sums.items())]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, TypeError):
        return f"{SUMS} is damaged"
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    mine = next((text for name, entry in entries[rank::world] if (text := _difference(folder / name, entry))), None)
    if world == 1:
        return mine
    found: list[str | None] = [None] * world
    dist.all_gather_object(found, mine)
    return next((text for text in found if text), None)


def _difference(path: Path, entry: tuple[int, int]) -> str | None:
    try:
        if path.stat().st_size != entry[0]:
            return f"{path.name} has {path.stat().st_size} bytes of {entry[0]}"
        return None if sum_of(path) == entry else f"{path.name} has changed since it was saved"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read ({error.strerror or error})"


def newest_whole(root: Path) -> tuple[int | None, list[str]]:
    """The newest iteration under `root` whose files are whole, and what was found wrong with newer ones (a collective).

    Damaged ones that are newer than a whole one are renamed to `iter_N.damaged`, and `latest` is moved back. Raises
    InputError when none is whole.
    """
    newest = latest_iteration(root)
    if newest is None:
        return None, []
    wrong: list[tuple[int, str]] = []
    for iteration in reversed([n for n in iterations(root) if n <= newest]):
        text = damage(iteration_folder(root, iteration))
        if text is None:
            if wrong and (not dist.is_initialized() or dist.get_rank() == 0):
                write_text(root / LATEST, str(iteration))
                for number, _ in wrong:
                    _set_aside(iteration_folder(root, number))
            if wrong and dist.is_initialized():
                dist.barrier()
            return iteration, [f"{iteration_folder(root, n)} is damaged ({text})" for n, text in wrong]
        wrong.append((iteration, text))
    raise InputError(
        f"every checkpoint in {root} is damaged: "
        + "; ".join(f"iteration {number}: {text}" for number, text in wrong)
        + ". To start again, move the folder away."
    )


def _set_aside(folder: Path) -> None:
    number = 1
    while (target := folder.with_name(f"{folder.name}.damaged-{number}")).exists():
        number += 1
    folder.rename(target)
