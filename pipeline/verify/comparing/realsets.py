r"""Brings sets of real numbers into one normal form, disjoint pieces in order: `(0,2) \cup (1,3)` is `(0,3)`.

Ends are compared as floats to put them in order and as answers, exactly, where two are close.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

from pipeline.verify.comparing import sampling
from pipeline.verify.reading import syntax
from pipeline.verify.reading.nodes import (
    Difference,
    Group,
    Inequality,
    Intersection,
    Interval,
    Named,
    Node,
    Scalar,
    Union,
)
from pipeline.verify.reading.normalize import key
from pipeline.verify.reading.structure import read

MOST_PIECES = 40
_CLOSE = 1e-9
Same = Callable[[str, str], bool]
"""Whether two texts are equal as answers."""


class NoSetError(ValueError):
    """Not a set of reals with ends that have values."""


@dataclass(frozen=True, slots=True)
class End:
    value: float
    text: str


@dataclass(frozen=True, slots=True)
class Piece:
    low: End
    high: End
    low_closed: bool
    high_closed: bool


_LOWEST, _HIGHEST = End(-math.inf, "-\\infty"), End(math.inf, "\\infty")
_LINE = [Piece(_LOWEST, _HIGHEST, False, False)]


def equal(a: Node, b: Node, same: Same) -> bool | None:
    """Whether two nodes are the same set of reals; None if we cannot put the pieces of one of them in order."""
    try:
        left, right = _pieces(a, same), _pieces(b, same)
    except NoSetError:
        return None
    return len(left) == len(right) and all(
        (x.low_closed, x.high_closed) == (y.low_closed, y.high_closed)
        and _order(x.low, y.low, same) == 0
        and _order(x.high, y.high, same) == 0
        for x, y in zip(left, right, strict=True)
    )


def _pieces(node: Node, same: Same) -> list[Piece]:
    if isinstance(node, Named):
        return _pieces(node.value, same)
    if isinstance(node, Interval):
        return _settled([Piece(_end(node.low), _end(node.high), node.low_closed, node.high_closed)], same)
    if isinstance(node, Scalar):
        return [_point(node)]
    if isinstance(node, Inequality) and node.relation == "!=":
        value = read(node.right)
        points = value.items if isinstance(value, Group) else [value]
        return _without(_LINE, _settled([_point(point) for point in points], same), same)
    if isinstance(node, Union):
        return _settled([piece for part in node.parts for piece in _pieces(part, same)], same)
    if isinstance(node, Intersection):
        return _all_of([_pieces(part, same) for part in node.parts], same)
    if isinstance(node, Difference):
        return _without(_pieces(node.base, same), _pieces(node.removed, same), same)
    if isinstance(node, Group):
        return _of_group(node, same)
    raise NoSetError


def _of_group(group: Group, same: Same) -> list[Piece]:
    if group.kind == "set":
        return _settled([_point(item) for item in group.items], same)
    if group.kind == "tuple" and len(group.items) == 2:
        low, high = group.items
        if isinstance(low, Scalar) and isinstance(high, Scalar):
            return _pieces(Interval(low.text, high.text, False, False), same)
    if group.kind == "list" and all(isinstance(item, (Interval, Inequality, Union, Named)) for item in group.items):
        if group.joined != "or" and any(isinstance(item, Named) for item in group.items):
            raise NoSetError  # `x < 1 or x = 2` has a point; `x < 1, y = 2` is no set
        parts = [_pieces(item, same) for item in group.items]
        # `x > 0, x \ne 1` holds together; `x < 1 or x > 3` does not
        if group.joined == "and" or any(isinstance(item, Inequality) for item in group.items):
            relations = all(isinstance(item, Inequality) or getattr(item, "label", "") for item in group.items)
            if relations:
                return _all_of(parts, same)
        return _settled([piece for part in parts for piece in part], same)
    raise NoSetError


def _point(node: Node) -> Piece:
    if not isinstance(node, Scalar):
        raise NoSetError
    end = _end(node.text)
    return Piece(end, end, True, True)


def _end(text: str) -> End:
    spelled = key(text).lstrip("+").replace("{}", "")
    if spelled in ("\\infty", "-\\infty"):
        return _HIGHEST if spelled[0] != "-" else _LOWEST
    try:
        tree = syntax.parse(text)
    except (SyntaxError, RecursionError):
        raise NoSetError from None
    value = None if syntax.symbols(tree) else sampling.real_value(tree)
    if value is None:
        raise NoSetError
    return End(value, text)


def _order(a: End, b: End, same: Same) -> int:
    if a is b or a.value == b.value:
        return 0 if a.text == b.text or math.isinf(a.value) or same(a.text, b.text) else 1
    if abs(a.value - b.value) <= _CLOSE * max(1.0, abs(a.value)) and same(a.text, b.text):
        return 0
    return -1 if a.value < b.value else 1


def _settled(pieces: list[Piece], same: Same) -> list[Piece]:
    """In order, without empty pieces; pieces that touch become one."""
    if len(pieces) > MOST_PIECES:
        raise NoSetError
    found: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: (piece.low.value, not piece.low_closed)):
        width = _order(piece.low, piece.high, same)
        if width > 0 or (width == 0 and not (piece.low_closed and piece.high_closed)):
            continue
        if not found:
            found.append(piece)
            continue
        last = found[-1]
        gap = _order(last.high, piece.low, same)
        if gap < 0 or (gap == 0 and not (last.high_closed or piece.low_closed)):
            found.append(piece)
            continue
        beyond = _order(last.high, piece.high, same)
        low_closed = last.low_closed or (piece.low_closed and _order(last.low, piece.low, same) == 0)
        high, high_closed = (piece.high, piece.high_closed) if beyond < 0 else (last.high, last.high_closed)
        found[-1] = Piece(last.low, high, low_closed, high_closed or (beyond == 0 and piece.high_closed))
    return found


def _all_of(parts: list[list[Piece]], same: Same) -> list[Piece]:
    outside = [piece for part in parts for piece in _without(_LINE, part, same)]
    return _without(_LINE, _settled(outside, same), same)


def _without(base: list[Piece], removed: list[Piece], same: Same) -> list[Piece]:
    if base is not _LINE:
        return _all_of([base, _without(_LINE, removed, same)], same)
    ends = [Piece(_LOWEST, _LOWEST, False, False), *removed, Piece(_HIGHEST, _HIGHEST, False, False)]
    between = [
        Piece(left.high, right.low, not left.high_closed, not right.low_closed) for left, right in pairwise(ends)
    ]
    between = [
        Piece(p.low, p.high, p.low_closed and p.low.value > -math.inf, p.high_closed and p.high.value < math.inf)
        for p in between
    ]
    return _settled([p for p in between if p.low.value < p.high.value or (p.low_closed and p.high_closed)], same)
