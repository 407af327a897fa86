"""Rows of the user's files, streamed: parquet, Arrow, and all forms of text.

The file type is detected from content, not from the name. A line that is not a row is yielded with what is wrong with it;
only a file that cannot be read at all is an error.
"""

import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError
from pipeline.data.columns import known_names
from pipeline.data.folders import files_of
from pipeline.data.raw import RawRow
from pipeline.data.text_files import text_rows
from pipeline.settings import Data

BATCH = 1024
"""Rows of a columnar file that are in memory at a time."""


class Source:
    """One `data.path` entry: a file, or a folder of files. Iterate over it once.

    Raises InputError where there is nothing, or it cannot be read.
    """

    def __init__(self, path: str, split: str, data: Data | None = None) -> None:
        self.path, self.split = path, split
        data = data or Data()
        self._encoding, self._known = data.encoding, known_names(data.columns)
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
            except (OSError, EOFError, ValueError, LZMAError, zlib.error) as error:  # pyarrow's errors are among these
                reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
                raise InputError(
                    f"{file} cannot be read ({reason}). It may be incomplete: copy it again. Otherwise give JSON lines, CSV, "
                    "parquet or a Hugging Face dataset folder"
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
            raise ValueError(f"its name ends in {file.suffix}, and its content is something else")
        else:
            yield from text_rows(file, self._encoding, self._known, self.split, lambda at: self._reach(before + at))

    def _reach(self, position: int) -> None:
        self.position = position

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
