"""What a file is, by its first bytes: compressed, in which encoding, or of a form that holds no rows."""

import bz2
import codecs
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError, UsageError

COMPRESSED: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OTHER_FORMS = (
    (b"PK\x03\x04", "a zip archive or an Excel workbook. Unpack it, or save the table as CSV"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd. Decompress it: zstd -d"),
    (b"SQLite format 3", "an SQLite database. Export its table as CSV"),
    (b"%PDF", "a PDF document. Give the problems as JSON lines or CSV"),
    (b"\x89HDF", "an HDF5 file. Save the table as parquet or CSV"),
    (b"\x93NUMPY", "a NumPy array. Save the problems as JSON lines"),
    (b"\x80\x04", "a Python pickle. Save the problems as JSON lines"),
    (b"\x80\x05", "a Python pickle. Save the problems as JSON lines"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the data. Fetch the data: git lfs pull"),
    (b"<!doctype html", "a web page instead of data. The download failed or needs a login; download the file again"),
    (b"<html", "a web page instead of data. The download failed or needs a login; download the file again"),
    (b"<?xml", "XML. Give the problems as JSON lines or CSV"),
)
ENCODING_ADVICE = "if the file is in Latin-1, set data.encoding=latin-1"


def encoding_of(head: bytes, encoding: str, file: Path) -> str:
    try:
        codecs.lookup(encoding)
    except LookupError as error:
        raise UsageError(
            f"data.encoding={encoding}: Python knows no such encoding. Examples: utf-8, latin-1, cp1252"
        ) from error
    marked = next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if marked is not None:
        return marked
    if b"\0" not in head:
        return "utf-8" if codecs.lookup(encoding).name in ("utf-8", "ascii") else encoding
    even, odd = head[0:400:2].count(0), head[1:400:2].count(0)
    if max(even, odd) > 3 * min(even, odd) and max(even, odd) > 0.3 * len(head[0:400:2]):
        return "utf-16-le" if odd > even else "utf-16-be"
    raise InputError(
        f"{file} is not text, and no form of data file that is known (it begins with {head[:8].hex(' ')}). Give JSON lines, "
        "CSV, parquet, or a Hugging Face dataset folder"
    )


def refuse_other_forms(head: bytes, file: Path) -> None:
    start = head.lstrip()[:64].lower()
    for sign, what in _OTHER_FORMS:
        if head.startswith(sign) or start.startswith(sign.lower()):
            raise InputError(f"{file} is {what}")


def not_encoded(file: Path, encoding: str) -> str:
    return (
        f"{file} is not text in {encoding.removesuffix('-sig').upper()}. Name its encoding (data.encoding=latin-1, cp1252, "
        f"gb18030, shift_jis, ...), or convert it: iconv -f LATIN1 -t UTF-8 {file.name}"
    )
