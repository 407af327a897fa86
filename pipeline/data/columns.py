"""Columns of the user's rows, found by name: without regard to case, by alternatives, and by paths into nested values."""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pipeline.data.answers import RowError
from pipeline.settings import Columns

ABSENT = object()
_GAPS = re.compile(r"[\s-]+")


@lru_cache(maxsize=4096)
def normal(name: str) -> str:
    """`Final Answer` and `final-answer` as `final_answer`."""
    return _GAPS.sub("_", name.strip().casefold())


def cell(row: dict[str, Any], names: str) -> Any:
    """The value of the first of the comma-separated columns that the row has and that is not empty; ABSENT if it has none.

    `a+b` is both columns' text, one after the other. A dot reaches into a column (`reward_model.ground_truth`,
    `prompt.0.content`).
    """
    empty: Any = ABSENT
    for name in names.split(","):
        parts = [_at(row, part.strip()) for part in name.split("+")]
        if any(part is ABSENT for part in parts):
            continue
        if len(parts) == 1 and parts[0] not in (None, "", []):
            return parts[0]
        if len(parts) > 1 and all(isinstance(part, str) for part in parts):
            return "\n".join(parts)
        empty = parts[0] if empty is ABSENT else empty
    return empty


def known_names(columns: Columns) -> frozenset[str]:
    """The outermost columns that hold problems, answers or solutions, as `normal` writes them: what tells a row from a
    container of rows, and a header from a line of data."""
    found = [
        normal(part) for names in (columns.problem, columns.answer, columns.solution) for part in _outermost(names)
    ]
    return frozenset(found)


def _outermost(names: str) -> Iterator[str]:
    for name in names.split(","):
        for part in name.split("+"):
            yield part.strip().partition(".")[0]


def _at(row: dict[str, Any], name: str) -> Any:
    value: Any = row
    for part in [name] if name in row else name.split("."):
        if isinstance(value, dict):
            value = _member(value, part)
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
            if isinstance(value, dict) and value.get("role", value.get("from")) == "system":
                column = name.partition(".")[0]
                raise RowError("system message", f"{name} is the system message; name the whole list: {column}")
        else:
            return ABSENT
        if value is ABSENT:
            return ABSENT
    return value


def _member(value: dict[str, Any], name: str) -> Any:
    if name in value:
        return value[name]
    wanted = normal(name)
    return next((held for key, held in value.items() if isinstance(key, str) and normal(key) == wanted), ABSENT)
