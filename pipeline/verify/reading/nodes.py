"""Defines the shapes that an answer can have. Leaves hold cleaned LaTeX; they get values when they are compared."""

from dataclasses import dataclass
from typing import Literal

from pipeline.verify.reading.numbers import Number


@dataclass(slots=True)
class Scalar:
    text: str
    number: Number | None = None
    percent: bool = False
    unit: str = ""


@dataclass(slots=True)
class Word:
    text: str


@dataclass(slots=True)
class Group:
    """Several answers: a tuple `(a, b)`, a bare list `a, b`, or a set."""

    kind: Literal["tuple", "list", "set"]
    items: list["Node"]
    free: bool = False
    """A list of which something says that its order means nothing: `or`, `and`, `x = `, several boxes, plus-minus."""
    joined: Literal["", "and", "or"] = ""
    """The one word between all items of a list, if there is one."""


@dataclass(slots=True)
class Interval:
    low: str
    high: str
    low_closed: bool
    high_closed: bool
    label: str = ""


@dataclass(slots=True)
class Union:
    parts: list["Node"]


@dataclass(slots=True)
class Intersection:
    parts: list["Node"]


@dataclass(slots=True)
class Difference:
    r"""`(0, 3) \setminus \{1\}`."""

    base: "Node"
    removed: "Node"


@dataclass(slots=True)
class Matrix:
    rows: list[list["Node"]]


@dataclass(slots=True)
class Equation:
    left: str
    right: str


@dataclass(slots=True)
class Inequality:
    """left < right, left <= right, or left != right."""

    relation: Literal["<", "<=", "!="]
    left: str
    right: str


@dataclass(slots=True)
class Named:
    """`x = 3`: a value with the name of what it is the value of."""

    label: str
    value: "Node"
    left: str
    right: str


@dataclass(slots=True)
class Ratio:
    """`7:32`, and also `12:30`."""

    items: list[str]
    unit: str = ""
    """am or pm."""


@dataclass(slots=True)
class BaseNumber:
    digits: str
    base: int


Node = (
    Scalar
    | Word
    | Group
    | Interval
    | Union
    | Intersection
    | Difference
    | Matrix
    | Equation
    | Inequality
    | Named
    | Ratio
    | BaseNumber
)


def as_set(node: Node) -> Node:
    """`(a, b)` among sets is an open interval."""
    if isinstance(node, Group) and node.kind == "tuple" and len(node.items) == 2:
        low, high = node.items
        if isinstance(low, Scalar) and isinstance(high, Scalar):
            return Interval(low.text, high.text, False, False)
    if isinstance(node, Named):
        return as_set(node.value)
    return node
