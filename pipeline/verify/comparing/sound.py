r"""Refuses, in every form, an equal answer whose symbols only cancel or that states two values.

`0 \cdot c` is 0 and `x = 2 = 3` ends in 3, but neither is an answer: the first says nothing that was worked out, the
second says everything.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from typing import Any

from pipeline.verify.comparing import evaluate, sampling
from pipeline.verify.reading import syntax
from pipeline.verify.reading.nodes import (
    Difference,
    Equation,
    Group,
    Inequality,
    Intersection,
    Interval,
    Matrix,
    Named,
    Node,
    Ratio,
    Scalar,
    Union,
    Word,
)
from pipeline.verify.reading.numbers import Number, parse_number, rounds_to
from pipeline.verify.reading.relations import is_name, label_of
from pipeline.verify.reading.scan import find_top
from pipeline.verify.reading.structure import choice, readings
from pipeline.verify.reading.words import qualified

_CALL = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}\s*\(")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_BOUND = re.compile(
    r"\\(?:sum|prod|bigcup)\s*_\s*\{?\s*([A-Za-z])\s*=|\\lim\s*_\s*\{?\s*([A-Za-z])|d\s*([A-Za-z])(?![A-Za-z])"
)
_LETTER = re.compile(r"[A-Za-z]")
_LINK = re.compile(r"=|\\(?:implies|iff|Rightarrow|Leftrightarrow|approx|sim|equiv)(?![A-Za-z])")
_SHOWS_WORK = re.compile(r"[^\s=~]\s*[+/-]|\\frac|\\cdot")
_ARROWS = {r"\implies", r"\Rightarrow", r"\iff", r"\Leftrightarrow"}
_ABOUT = {r"\approx", r"\sim"}
_RELATIONS = _ARROWS | _ABOUT | {"=", r"\equiv"}
_LARGE = 10**300
_CLOSE = 0.005
"""Relative difference of two values that a chain of equations may join, where one of them is irrational or rounded."""


def objection(given: str, wanted: str, strict: bool = False) -> str:
    """Why `given`, which was found equal to `wanted` (both cleaned), is no answer; empty where nothing speaks against it.

    A calculation that goes wrong on its way (`x = 5 + 5 + 1 = 7 = 11`) is refused only if `strict`; it still states one
    value at its end."""
    if _LINK.search(given) and "mod" not in given and (strict or not _SHOWS_WORK.search(given)) and _contradicts(given):
        return "two values"
    letter, value = choice(given)
    if letter:
        if not value or wanted.strip("() .") == letter:
            return ""
        given = value
    given, wanted = qualified(given).body, qualified(wanted).body
    if not _LETTER.search(_COMMAND.sub("", given)) and "\\" not in given:
        return ""
    ours, golds = readings(given), readings(wanted)
    relation = any(_is_relation(node) or _has_another_name(node, golds[0]) for node in ours)
    theirs = [_symbols(node, relation) for node in golds]
    if any(found is None for found in theirs):
        return ""
    most = max(len(found) for found in theirs if found is not None)
    if not most and _CALL.search(given) and any(isinstance(gold, Scalar) for gold in golds):
        return "a function that nobody knows"
    if "|" in given and all(_is_size_of(node, gold) for node in ours for gold in golds):
        return "the size of another quantity"
    symbols = [_symbols(node, False) for node in ours]
    fewest = min(len(found) if found is not None else _free_letters(given) for found in symbols)
    return "symbols that only cancel" if fewest > max(most, int(relation)) else ""


# ---- symbols


def _symbols(node: Node, relation: bool) -> set[str] | None:
    """Variables in the values of `node`; a name before a value counts where it is compared with a `relation`. None for
    words and for what our grammar cannot read."""
    found: set[str] = set()
    for text in values(node):
        if parse_number(text) is not None:
            continue
        try:
            found |= syntax.symbols(syntax.parse(text))
        except (SyntaxError, RecursionError):
            return None
    return found | _unknowns(node, relation)


def values(node: Node) -> Iterator[str]:
    """The cleaned texts of all expressions in `node`."""
    if isinstance(node, Scalar):
        if node.number is None:
            yield node.text
    elif isinstance(node, Named):
        yield from values(node.value)
    elif isinstance(node, Interval):
        yield from (node.low, node.high)
        if node.label and is_name(node.low) and is_name(node.high):  # `a < b < c` orders three names
            yield node.label
    elif isinstance(node, (Equation, Inequality)):
        yield from (node.left, node.right)
    elif isinstance(node, Ratio):
        yield from node.items
    elif isinstance(node, Word):
        yield r"\text{}"
    else:
        for part in parts(node):
            yield from values(part)


def parts(node: Node) -> list[Node]:
    """The nodes of which `node` is made."""
    if isinstance(node, Group):
        return node.items
    if isinstance(node, (Union, Intersection)):
        return node.parts
    if isinstance(node, Difference):
        return [node.base, node.removed]
    if isinstance(node, Matrix):
        return [cell for row in node.rows for cell in row]
    return [node.value] if isinstance(node, Named) else []


def _is_relation(node: Node) -> bool:
    return isinstance(node, (Equation, Inequality)) or any(_is_relation(part) for part in parts(node))


def _unknowns(node: Node, relation: bool) -> set[str]:
    """Letters of the names before values: `y = 2x + 3` has two unknowns, as `2x - y + 3 = 0` has."""
    if not relation:
        return set()
    own = set(_LETTER.findall(_COMMAND.sub("", node.label))) if isinstance(node, Named) else set()
    return own.union(*(_unknowns(part, relation) for part in parts(node)))


def _has_another_name(given: Node, gold: Node) -> bool:
    return isinstance(given, Named) and isinstance(gold, Named) and given.label != gold.label


def _free_letters(text: str) -> int:
    """Letters of a formula beyond our grammar that no sum, limit or integral binds."""
    bound = {name for match in _BOUND.finditer(text) for name in match.groups() if name} | {"d", "e", "i"}
    bare = re.sub(r"\\(?:text|begin|end|operatorname|mathbb)\s*\{[^{}]*\}", " ", text)
    return len(set(_LETTER.findall(_COMMAND.sub(" ", bare))) - bound)


def _is_size_of(given: Node, gold: Node) -> bool:
    """`|x| = 4` beside the gold `x = 4`."""
    if not isinstance(given, Named) or not isinstance(gold, Named):
        return False
    return given.left.startswith("|") and "|" not in gold.left and label_of(given.left) == label_of(gold.left)


# ---- two values


def _contradicts(text: str) -> bool:
    """Whether a chain of `=`, `\\approx`, `\\implies` joins constants that differ."""
    found = find_top(text, _RELATIONS)
    if not found:
        return False
    edges = [0, *(edge for _, start, end in found for edge in (start, end)), len(text)]
    sides = [text[edges[i] : edges[i + 1]].strip() for i in range(0, len(edges), 2)]
    links = [token for token, _, _ in found]
    for k, link in enumerate(links):
        if (
            link in _ARROWS
            and k == 0
            and sides[0]
            and _constant(sides[0]) is not None
            and not _agrees(sides[0], sides[-1], _ABOUT)
        ):
            return True
    run: list[str] = []
    runs = [run]
    about = False
    for side, link in zip(sides, ["", *links], strict=True):
        if link in _ARROWS:
            run = []
            runs.append(run)
        about |= link in _ABOUT
        if _constant(side) is not None:
            run.append(side)
    return any(not _agrees(a, b, _ABOUT if about else set()) for run in runs for a, b in pairwise(run))


def _constant(text: str) -> tuple[Any, Number | None] | None:
    """(its value, how it is written if as a numeral) of a text that has one."""
    text = re.sub(r"\\text\s*\{[^{}]*\}(?:\^\S+)?|\\degree|\\%|\\dollar", "", text).strip()
    if not text or (is_name(text) and label_of(text)):
        return None
    number = parse_number(text)
    if number is not None:
        return number.value, number
    try:
        tree = syntax.parse(text)
    except (SyntaxError, RecursionError):
        return None
    if syntax.symbols(tree):
        return None
    value = evaluate.exact(tree)
    if value is not None:
        return value, None
    real = sampling.real_value(tree)
    return None if real is None else (real, None)


def _agrees(a: str, b: str, about: set[str]) -> bool:
    left, right = _constant(a), _constant(b)
    if left is None or right is None:
        return True
    (x, first), (y, second) = left, right
    if x == y:
        return True
    for exact, number in ((x, second), (y, first)):
        if number is not None and number.places is not None and rounds_to(exact, number):
            return True
        if (
            about
            and number is not None
            and abs(exact) < _LARGE
            and abs(float(exact) - float(number.value)) <= 0.5 * 10.0 ** -(number.places or 0) + 1e-12
        ):
            return True
    percent = ("\\%" in a) != ("\\%" in b)
    if percent and (x == 100 * y or y == 100 * x):
        return True
    if abs(x) > _LARGE or abs(y) > _LARGE:
        return False
    both = (
        isinstance(x, Fraction)
        and isinstance(y, Fraction)
        and all(n is None or n.places is None for n in (first, second))
    )
    if both and not about:
        return False
    return abs(float(x) - float(y)) <= _CLOSE * max(abs(float(x)), abs(float(y)))
