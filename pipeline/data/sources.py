"""Rows of the user's files: JSON lines, JSON arrays, parquet and Arrow, each also gzipped where that is text; streamed.

What a file is is told by its first bytes, not by its name. A line that is no row is yielded with what is wrong about it;
only a file that cannot be read at all is an error.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from pipeline.common.errors import InputError
from pipeline.data.folders import files_of

LONGEST_LINE = 64 << 20
"""A longer line is no row but a file of another kind; reading it on would fill the memory."""
BATCH = 1024
"""Rows of a columnar file that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row as it stands in its file."""

    file: str
    line: int
    """Line of a text file, row of a columnar one or of a JSON array; from 1."""
    value: Any
    fault: str | None = None
    """Why `value` is no row (and then holds the beginning of the text)."""


class Source:
    """One `data.path` entry: a file, or a folder of files. Iterate over it once.

    Raises InputError where there is nothing, or it cannot be read.
    """

    def __init__(self, path: str, split: str) -> None:
        self.path = path
        self.files = files_of(Path(path), split)
        self.size = sum(file.stat().st_size for file in self.files)
        """Bytes in all."""
        self.position = 0
        """Bytes read so far, about."""

    def __iter__(self) -> Iterator[RawRow]:
        before = 0
        for file in self.files:
            try:
                yield from self._rows(file, before)
            except (OSError, EOFError, ValueError) as error:  # pyarrow's errors are among these
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise InputError(
                    f"{file} cannot be read ({reason}). Give JSON lines, parquet or a Hugging Face dataset folder; if it is "
                    "one, it may be incomplete: copy it again"
                ) from error
            before += file.stat().st_size
            self.position = before

    def _rows(self, file: Path, before: int) -> Iterator[RawRow]:
        with open(file, "rb") as opened:
            head = opened.read(8)
        if head.startswith(b"PAR1"):
            yield from self._parquet(file, before)
        elif head.startswith((b"ARROW1", b"\xff\xff\xff\xff")):
            yield from self._arrow(file, head.startswith(b"ARROW1"), before)
        elif file.suffix in (".parquet", ".arrow"):
            raise ValueError(f"named {file.suffix}, and does not begin as such a file does")
        else:
            yield from self._text(file, head.startswith(b"\x1f\x8b"), before)

    def _parquet(self, file: Path, before: int) -> Iterator[RawRow]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(file) as table:
            total, line = max(1, table.metadata.num_rows), 0
            for batch in table.iter_batches(batch_size=BATCH):
                for value in batch.to_pylist():
                    line += 1
                    self.position = before + file.stat().st_size * line // total if line % BATCH == 0 else self.position
                    yield RawRow(str(file), line, value)

    def _arrow(self, file: Path, random_access: bool, before: int) -> Iterator[RawRow]:
        import pyarrow as pa

        line = 0
        with pa.memory_map(str(file)) as opened:
            if random_access:
                table = pa.ipc.open_file(opened)
                batches: Any = (table.get_batch(i) for i in range(table.num_record_batches))
            else:
                batches = pa.ipc.open_stream(opened)
            for batch in batches:
                for start in range(0, batch.num_rows, BATCH):
                    for value in batch.slice(start, BATCH).to_pylist():
                        line += 1
                        yield RawRow(str(file), line, value)
                self.position = before + opened.tell()

    def _text(self, file: Path, zipped: bool, before: int) -> Iterator[RawRow]:
        with open(file, "rb") as raw, gzip.open(raw) if zipped else raw as binary:
            opened = cast(IO[bytes], binary)
            if _starts_with(opened, b"["):
                rows = _array(opened)
                if rows is not None:
                    yield from (RawRow(str(file), number, value) for number, value in enumerate(rows, 1))
                    return
            opened.seek(0)
            number = 0
            while line := opened.readline(LONGEST_LINE + 1):
                number += 1
                self.position = before + raw.tell()
                if len(line) > LONGEST_LINE:
                    raise ValueError(f"line {number} has more than {LONGEST_LINE >> 20} MiB")
                if line.strip():
                    yield _parse(str(file), number, line)


def _starts_with(opened: IO[bytes], sign: bytes) -> bool:
    return opened.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(sign)


def _array(opened: IO[bytes]) -> list[Any] | None:
    """The rows of a file that is one JSON array; None where it is not."""
    opened.seek(0)
    try:
        rows = json.loads(opened.read().decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    return rows if all(isinstance(row, dict) for row in rows) else None


def _parse(file: str, number: int, line: bytes) -> RawRow:
    try:
        text = line.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        return RawRow(file, number, line[:200].decode("utf-8", "replace"), f"not UTF-8 ({error.reason})")
    try:
        return RawRow(file, number, json.loads(text))
    except (ValueError, RecursionError) as error:
        return RawRow(file, number, text[:200].rstrip("\n"), f"not JSON ({error})")
