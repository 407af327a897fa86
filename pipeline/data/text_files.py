"""Rows of text files: JSON lines, JSON documents, CSV and TSV, compressed or not; detected from content, not from the name.

Lines end in LF, CRLF or CR. The encoding is `data.encoding`, unless a byte-order mark or the pattern of zero bytes says UTF-16.
"""

import csv
import io
import json
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from pipeline.common.errors import InputError
from pipeline.data import documents
from pipeline.data.columns import normal
from pipeline.data.file_forms import COMPRESSED, ENCODING_ADVICE, encoding_of, not_encoded, refuse_other_forms
from pipeline.data.raw import RawRow

LONGEST_LINE = 64 << 20
"""Characters. A longer line is not a row but a file of another kind; reading it on would fill the memory."""
HEAD = 1 << 16
HOPELESS = 1000
"""Lines without a single row among them, after which a file is not read on."""
_DELIMITERS = (",", "\t", ";", "|")


def text_rows(
    file: Path, encoding: str, known: frozenset[str], split: str, at: Callable[[int], None] = lambda position: None
) -> Iterator[RawRow]:
    """The rows of `file`; `at` is called with the bytes read so far.

    Raises InputError naming the form of a file that holds no rows that can be read; UsageError for an unknown encoding.
    """
    with open(file, "rb") as raw:
        start = raw.read(8)
        raw.seek(0)
        opener = next((opener for sign, opener in COMPRESSED.items() if start.startswith(sign)), None)
        with opener(raw) if opener else raw as opened:
            binary = cast(IO[bytes], opened)
            head = binary.read(HEAD)
            binary.seek(0)
            refuse_other_forms(head, file)
            text = _Text(file, binary, encoding_of(head, encoding, file), lambda: at(raw.tell()))
            yield from _rows(text, known, split)


class _Text:
    """A file's text, which can be read more than once from its beginning."""

    def __init__(self, file: Path, binary: IO[bytes], encoding: str, progress: Callable[[], None]) -> None:
        self.file, self.encoding, self.progress = file, encoding, progress
        self._binary = binary

    def lines(self, newline: str | None = None) -> Iterator[str]:
        """All lines with their ends. Bytes that are not UTF-8 become lone surrogates, so that their lines can be found."""
        self._binary.seek(0)
        errors = "surrogateescape" if self.encoding.startswith("utf-8") else "strict"
        wrapper = io.TextIOWrapper(cast(Any, self._binary), self.encoding, errors, newline)
        try:
            number = 0
            while line := wrapper.readline(LONGEST_LINE + 1):
                number += 1
                self.progress()
                if len(line) > LONGEST_LINE and newline is None:
                    raise ValueError(f"line {number} has more than {LONGEST_LINE >> 20} MiB")
                yield line
        except UnicodeDecodeError as error:
            raise InputError(not_encoded(self.file, self.encoding)) from error
        finally:
            if not self._binary.closed:
                wrapper.detach()  # else the file would be closed with its wrapper

    def whole(self) -> str:
        self._binary.seek(0)
        try:
            return self._binary.read().decode("utf-8-sig" if self.encoding == "utf-8" else self.encoding)
        except UnicodeDecodeError as error:
            raise InputError(not_encoded(self.file, self.encoding)) from error


def _rows(text: _Text, known: frozenset[str], split: str) -> Iterator[RawRow]:
    lines = (line for line in text.lines() if line.strip())
    try:
        first, second = next(lines, ""), next(lines, None)
    except ValueError:  # a line of this length can only be a document
        first, second = "[", None
    finally:
        lines.close()
    if not first:
        return
    opens = first.lstrip()[0]
    if opens in "[{" and (second is None or not isinstance(_json(first), dict)):
        document = _document(text)
        if document is not None:
            for number, value in enumerate(documents.rows_of(document, known, split, str(text.file)), 1):
                yield RawRow(str(text.file), number, value)
            return
    delimiter = None if opens in "[{" else _delimiter(first, text.file, known)
    yield from _json_lines(text) if delimiter is None else _table(text, delimiter)


def _json_lines(text: _Text) -> Iterator[RawRow]:
    faulty: list[RawRow] = []
    any_row = False
    for number, line in enumerate(text.lines(), 1):
        if not line.strip():
            continue
        row = _parse(str(text.file), number, line)
        if any_row:
            yield row
            continue
        faulty.append(row)
        any_row = row.fault is None
        if any_row:
            yield from faulty
        elif len(faulty) > HOPELESS:
            break
    if not any_row and faulty:
        raise InputError(_no_rows(text, faulty[0]))


def _no_rows(text: _Text, first: RawRow) -> str:
    if first.fault is not None and first.fault.startswith("not UTF-8"):
        return not_encoded(text.file, text.encoding)
    shown = str(first.value)[:60].strip()
    return (
        f"{text.file} holds no rows: line {first.line} is {shown!r}, which is neither a JSON object nor a header with a column "
        "of problems. Give JSON lines, a JSON array, CSV with a header, parquet, or a Hugging Face dataset folder"
    )


def _table(text: _Text, delimiter: str) -> Iterator[RawRow]:
    """Rows of CSV or TSV with a header."""
    csv.field_size_limit(LONGEST_LINE)
    file = str(text.file)
    lines = text.lines(newline="")
    first = next(lines)
    reader = csv.reader(chain([first.removeprefix("\ufeff")], lines), delimiter=delimiter, strict=True)
    try:
        header = [name.strip() for name in next(reader)]
        for cells in reader:
            if not any(cells):
                continue
            shown = delimiter.join(cells)
            fault = None
            if any(_surrogate(cell) for cell in cells):
                fault, shown = f"not UTF-8 ({ENCODING_ADVICE})", _visible(shown)
            elif len(cells) != len(header):
                fault = f"wrong number of columns ({len(cells)}, and the header has {len(header)})"
            value: Any = shown[:200] if fault else dict(zip(header, cells, strict=True))
            yield RawRow(file, reader.line_num, value, fault)
    except csv.Error as error:
        raise InputError(
            f"{file}, line {reader.line_num}: not CSV ({error}). A field with the delimiter, a quote or a line end is put in "
            "double quotes, and quotes inside it are doubled"
        ) from error


def _delimiter(first: str, file: Path, known: frozenset[str]) -> str | None:
    """What separates the columns of a table whose header is `first`; None where it is no header."""
    cells = {sign: next(csv.reader([first.strip("\r\n")], delimiter=sign), []) for sign in _DELIMITERS}
    best = max(_DELIMITERS, key=lambda sign: (sum(normal(cell) in known for cell in cells[sign]), len(cells[sign])))
    named = any(ending in file.name.lower() for ending in (".csv", ".tsv"))
    is_header = len(cells[best]) > 1 and (named or any(normal(cell) in known for cell in cells[best]))
    return best if is_header else None


def _document(text: _Text) -> Any:
    """The JSON document that the file is, a list of the objects that follow one another in it, or None."""
    whole = text.whole()
    decoder, found, position = json.JSONDecoder(), [], 0
    try:
        while (position := _next(whole, position)) < len(whole):
            value, position = decoder.raw_decode(whole, position)
            found.append(value)
    except (ValueError, RecursionError):
        return None
    if len(found) == 1:
        value = found[0]
        return value if isinstance(value, dict) or _is_rows(value) else None
    return found if all(isinstance(value, dict) for value in found) else None


def _is_rows(value: Any) -> bool:
    """Whether an array's elements are of one kind; a line of JSON lines that is no row may be an array too."""
    return (
        isinstance(value, list) and len({type(row) for row in value}) == 1 and isinstance(value[0], dict | list | str)
    )


def _next(whole: str, position: int) -> int:
    while position < len(whole) and whole[position] in " \t\r\n\ufeff":
        position += 1
    return position


def _parse(file: str, number: int, line: str) -> RawRow:
    line = line.removeprefix("\ufeff") if number == 1 else line
    if _surrogate(line):
        return RawRow(file, number, _visible(line)[:200].rstrip(), f"not UTF-8 ({ENCODING_ADVICE})")
    try:
        return RawRow(file, number, json.loads(line))
    except (ValueError, RecursionError) as error:
        return RawRow(file, number, line[:200].rstrip("\n"), f"not JSON ({error})")


def _json(line: str) -> Any:
    try:
        return json.loads(line.removeprefix("\ufeff"))
    except (ValueError, RecursionError):
        return None


def _surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text)


def _visible(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
