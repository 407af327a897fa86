"""Rows of a file that is one JSON document: an array, a table by columns, or an object that holds the rows."""

from typing import Any

from pipeline.common.errors import InputError
from pipeline.data.columns import normal
from pipeline.data.folders import ALIASES
from pipeline.data.messages import is_chat

ADVICE = "Give one JSON object for each row, on one line, with a problem and an answer"


def rows_of(document: Any, known: frozenset[str], split: str, file: str) -> list[Any]:
    """The rows in `document`; `known` are names of columns, and `split` chooses among several lists.

    Raises InputError naming the form where the rows cannot be recognised.
    """
    if isinstance(document, list):
        return _from_list(document, known, file)
    if not isinstance(document, dict):
        raise InputError(f"{file} is one JSON {_kind(document)}, not rows. {ADVICE}")
    return _from_object(document, known, split, file)


def _from_list(document: list[Any], known: frozenset[str], file: str) -> list[Any]:
    if document and all(isinstance(row, dict) for row in document):
        # The hub's own viewer wraps each row: {"row_idx": 0, "row": {...}}.
        wrapped = all(isinstance(row.get("row"), dict) for row in document)
        return [row["row"] for row in document] if wrapped else document
    if document and all(isinstance(row, list) for row in document):
        if all(is_chat(row) for row in document):
            return document
        header = document[0]
        if all(isinstance(name, str) for name in header) and any(normal(name) in known for name in header):
            return _table(header, document[1:], file)
        raise InputError(f"{file} is an array of arrays, whose columns have no names. {ADVICE}")
    if document and all(isinstance(row, str) for row in document):
        raise InputError(f"{file} is an array of texts, without answers. {ADVICE}")
    return document


def _from_object(document: dict[str, Any], known: frozenset[str], split: str, file: str) -> list[Any]:
    names = [name for name in document if normal(name) in known]
    values = list(document.values())
    if isinstance(document.get("columns"), list) and isinstance(document.get("data"), list):  # pandas, orient="split"
        return _table(document["columns"], document["data"], file)
    if (
        names
        and all(isinstance(value, list) for value in values)
        and not any(is_chat(document[name]) for name in names)
    ):
        lengths = {name: len(value) for name, value in document.items()}
        if len(set(lengths.values())) > 1:
            said = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise InputError(f"{file} is a table by columns, and they differ in length: {said}. Correct the file")
        return [dict(zip(document, row, strict=True)) for row in zip(*values, strict=True)]
    if names and all(isinstance(value, dict) for value in values):  # pandas, orient="columns"
        index = list(values[0])
        if all(list(value) == index for value in values):
            return [{name: column[key] for name, column in document.items()} for key in index]
    if names:
        return [document]
    return _contained(document, known, split, file)


def _contained(document: dict[str, Any], known: frozenset[str], split: str, file: str) -> list[Any]:
    """The rows of an object that is no row itself."""
    values = list(document.values())
    if values and all(_is_row(value, known) for value in values):
        return [value if "id" in value else {"id": key} | value for key, value in document.items()]
    inner = {name: value for name, value in document.items() if isinstance(value, list | dict) and value}
    if not inner:
        return [document]  # a row, whose columns have other names; its own message says which
    lists = {name: value for name, value in inner.items() if isinstance(value, list)}
    candidates = lists if len(lists) == 1 else inner
    by_split = {ALIASES.get(name.lower(), name.lower()): value for name, value in candidates.items()}
    chosen = next(iter(candidates.values())) if len(candidates) == 1 else by_split.get(split)
    if chosen is None:
        keys = ", ".join(list(document)[:8]) or "none"
        raise InputError(
            f"{file} is one JSON object in which no rows were found (its keys: {keys}). {ADVICE}, or name the columns: "
            "data.columns.problem= and data.columns.answer="
        )
    return rows_of(chosen, known, split, file)


def _is_row(value: Any, known: frozenset[str]) -> bool:
    """Whether an object is one row, and not a table by columns."""
    if not isinstance(value, dict) or not any(normal(name) in known for name in value):
        return False
    return not all(isinstance(column, list) and not is_chat(column) for column in value.values())


def _table(header: list[Any], rows: list[Any], file: str) -> list[Any]:
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list) or len(row) != len(header):
            raise InputError(
                f"{file}: row {number} does not have the {len(header)} columns of the header. Correct the file"
            )
    return [dict(zip(map(str, header), row, strict=True)) for row in rows]


def _kind(value: Any) -> str:
    return {str: "text", int: "number", float: "number", bool: "truth value"}.get(type(value), "null")
