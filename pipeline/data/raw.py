"""A row as a file holds it, before anything is made of it."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row and where it is."""

    file: str
    line: int
    """Line of a text file, row of a columnar one or of a JSON document; from 1."""
    value: Any
    fault: str | None = None
    """Why `value` is not a row (it then holds the beginning of the text): a short reason, then details in brackets."""
