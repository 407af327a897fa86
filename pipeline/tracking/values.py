"""Metrics as strict JSON: numbers of other libraries become Python's, NaN and infinity become null."""

import math
from typing import Any


def strict(value: Any) -> Any:
    """`value` with NaN and infinity replaced by None, also inside dicts, lists, arrays and tensors."""
    if isinstance(value, bool | str) or value is None:
        return value
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): strict(inner) for key, inner in value.items()}
    if hasattr(value, "tolist"):  # numpy scalars and arrays, torch tensors
        return strict(value.tolist())
    if isinstance(value, list | tuple):
        return [strict(inner) for inner in value]
    return value


def number(value: Any) -> float | None:
    """`value` as a finite float; None for anything else (bools are numbers: shares of one)."""
    if isinstance(value, int | float) and math.isfinite(value):
        return float(value)
    return None


def is_histogram(value: Any) -> bool:
    """True for `{"edges": [n + 1], "counts": [n]}` of numbers with at least one bin."""
    if not isinstance(value, dict) or not {"edges", "counts"} <= value.keys():
        return False
    edges, counts = value["edges"], value["counts"]
    if not (isinstance(edges, list) and isinstance(counts, list) and len(edges) == len(counts) + 1 > 1):
        return False
    return all(number(entry) is not None for entry in (*edges, *counts))
