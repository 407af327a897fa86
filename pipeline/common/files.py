"""Files that survive a crash: atomic whole-file writes, and JSON lines whose torn last line is recognised and repaired.

Every JSONL file of a run goes through this module. Wherever in a write a crash comes, `read_jsonl` then yields every row that
was completely written and nothing else. Nothing of torch is imported: numbers of other libraries are converted by their
`.item()` or `.tolist()`.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError

StrPath = str | os.PathLike[str]


def write_text(path: StrPath, text: str) -> None:
    """Replaces the file by `text`; a reader sees the old file or the new one, never a part."""
    write_bytes(path, [text.encode("utf-8")])


def write_json(path: StrPath, obj: Any) -> None:
    """Replaces the file by `obj` as indented JSON."""
    write_text(path, json.dumps(obj, ensure_ascii=False, indent=2, default=_plain) + "\n")


def write_jsonl(path: StrPath, rows: Iterable[dict[str, Any]]) -> int:
    """Replaces the whole file by `rows`, one line each; returns their number. `rows` may be a generator."""
    count = 0

    def lines() -> Iterator[bytes]:
        nonlocal count
        for row in rows:
            count += 1
            yield _line(row)

    write_bytes(path, lines())
    return count


def write_bytes(path: StrPath, chunks: Iterable[bytes]) -> None:
    """Replaces the file by the chunks one after the other, atomically (temporary name, fsync, rename); on any error the
    old file stays."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with naming(path), os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fchmod(file.fileno(), 0o666 & ~_umask())  # mkstemp makes files that only their owner can read
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def clear_temporary(folder: StrPath) -> None:
    """Deletes what a process that was killed in `write_bytes` left in `folder`. Nothing else may write there meanwhile."""
    for path in Path(folder).glob(".*.tmp"):
        path.unlink(missing_ok=True)


@contextmanager
def naming(path: StrPath) -> Iterator[None]:
    """An error inside that has no `filename` gets this one, so that its message says where: a write to a full disk, torch's
    archives and safetensors do not name their file."""
    try:
        yield
    except BaseException as error:  # torch derives CheckpointException from it
        if getattr(error, "filename", None) is None:
            error.filename = os.fspath(path)  # type: ignore[attr-defined]
        raise


def follow_umask(path: StrPath) -> None:
    """Gives a file that a library made for its owner alone the permissions of any other new file."""
    os.chmod(path, 0o666 & ~_umask())


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A temporary folder for what is written inside, which then takes the place of `folder`: it appears whole or not at all.
    After an error it is deleted, as half of a model would only fill the disk; after a kill, by the next call."""
    temporary = folder.with_name(f".{folder.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with naming(folder):
            yield temporary
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def append_jsonl(path: StrPath, rows: Iterable[dict[str, Any]], durable: bool = False) -> None:
    """Appends the rows, each one line, in one write. A line that an earlier crash tore is repaired first: completed
    if only its newline is missing, cut off otherwise. Only one process may write at a time. `durable`: return when the rows
    are on the disk, where they survive a crash of the machine."""
    data = b"".join(_line(row) for row in rows)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with naming(path), open(path, "a+b", buffering=0) as file:
        _heal(file)
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        if durable:
            os.fsync(file.fileno())
    if durable and is_new:
        _sync_folder(path.parent)


def read_jsonl(path: StrPath) -> Iterator[dict[str, Any]]:
    """Yields the rows. A last line without its newline that does not parse was torn by a crash and is skipped.

    Raises:
        InputError: the file is missing or unreadable, or any other line is not a JSON object (names file and line).
    """
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line.decode("utf-8"))
                except (UnicodeDecodeError, json.JSONDecodeError) as error:
                    if not line.endswith(b"\n"):
                        return
                    raise InputError(f"{path}, line {number}: not JSON ({error}). Fix or delete that line.") from error
                if not isinstance(row, dict):
                    raise InputError(f"{path}, line {number}: expected a JSON object, found {type(row).__name__}.")
                yield row
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error


def read_json(path: StrPath) -> Any:
    """The whole file as JSON.

    Raises:
        InputError: missing, unreadable or not JSON.
    """
    try:
        return json.loads(Path(path).read_bytes().decode("utf-8"))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}.") from error


def _line(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, default=_plain).encode("utf-8", "backslashreplace") + b"\n"


def _plain(value: Any) -> Any:
    """Converts numpy and torch numbers and arrays, sets and paths to JSON types."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        return value.item()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"{type(value).__name__} cannot be written as JSON: {value!r}")


def _heal(file: Any) -> None:
    end = file.seek(0, os.SEEK_END)
    start, tail = end, b""
    while start > 0 and b"\n" not in tail:  # the tail is what follows the last newline; rows may be long, so by blocks
        block = min(1 << 16, start)
        start -= block
        file.seek(start)
        tail = file.read(block) + tail
    tail = tail[tail.rfind(b"\n") + 1 :]
    if not tail:
        return
    try:
        json.loads(tail.decode("utf-8"))
    except ValueError:
        file.truncate(end - len(tail))
    else:
        file.write(b"\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable; file systems that cannot sync a folder keep renames in order anyway."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(handle)
    except OSError:
        pass
    finally:
        os.close(handle)
