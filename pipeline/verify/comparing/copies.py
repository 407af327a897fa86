r"""Finds answers that copy a formula of the problem, and compares the forms of two answers.

The form of an answer is what is left when spaces, brackets, the order of sums and products, ones, zeros and names before
a value are taken off: `(x+2)(1+x)` has the form of `(x+1)(x+2)`, and `x^2+3x+2` has another.
"""

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from typing import Any

from pipeline.verify.reading import syntax
from pipeline.verify.reading.nodes import (
    Equation,
    Group,
    Inequality,
    Interval,
    Matrix,
    Named,
    Node,
    Ratio,
    Scalar,
    Union,
)
from pipeline.verify.reading.normalize import LONGEST_ANSWER, clean, key
from pipeline.verify.reading.numbers import parse_number
from pipeline.verify.reading.relations import is_constant, is_name
from pipeline.verify.reading.scan import find_top, split_top
from pipeline.verify.reading.structure import read, readings
from pipeline.verify.reading.syntax import Tree

MOST_FORMULAS = 200
_MATH = re.compile(
    r"\$\$(?P<a>.+?)\$\$|(?<!\\)\$(?P<b>(?:\\.|[^$\\])+?)\$|\\\((?P<c>.+?)\\\)|\\\[(?P<d>.+?)\\\]"
    r"|\\begin\{(?P<name>align|equation|gather|eqnarray|multline|displaymath)\*?\}(?P<e>.+?)\\end\{(?P=name)\*?\}",
    re.S,
)
_PLAIN = re.compile(
    r"(?:\d|\|\s?[\dA-Za-z]|[-+(]\s?\d|[A-Za-z]\s?[-+*/^=<>(]|\(\s?[A-Za-z]\s?[-+*/^])[\w\s.+*/^()=<>!%,|×·÷√-]*"
)
"""A formula in plain text: `37*48`, `2x + 3 = 11`."""
_RELATIONS = {"=", "<", ">", r"\le", r"\ge", r"\ne", r"\approx", r"\equiv", r"\in"}
_ASKS_FOR_A_FORM = re.compile(
    r"fraction|decimal|percent|simplif|reduc|lowest|convert|mixed number|scientific|standard form|expres|writ|round"
    r"|in base|base[- ]",
    re.I,
)
_ABSOLUTE = re.compile(r"\|[^|]+\|")
_FACTOR = re.compile(r"\bfactor(?:ed|ing|ise|ize|isation|ization)?\b(?!s|ial)", re.I)
_EXPAND = re.compile(r"\bexpand|\bmultiply out|\bas a polynomial\b|\bstandard form\b", re.I)


def is_copy(given: str, wanted: str, problem: str) -> bool:
    """Whether `given` (cleaned), which does not have the form of the gold `wanted`, was taken from `problem`."""
    named = read(given)
    if isinstance(named, Named) and _is_numeral(named.right):  # `n = 2` beside a 2 in the problem
        given = named.right
    if _is_numeral(given):
        return (
            bool(_ASKS_FOR_A_FORM.search(problem))
            and _whole(_unmarked(given)) != _whole(_unmarked(wanted))
            and form(given) in _forms(problem)
        )
    return form(given) in _forms(problem) or _other_form_is_asked(given, wanted, problem)


def _is_numeral(text: str) -> bool:
    return parse_number(_unmarked(text)) is not None


def _unmarked(text: str) -> str:
    """Without signs of money, percent and degrees."""
    return re.sub(r"\\text\s*\{[^{}]*\}|\\(?:%|dollar|degree|euro|pounds)|\s", "", text)


def sought_value(given: str, problem: str) -> str | None:
    """The value that `given` states of an expression of the problem: of `x + y = 5`, where it asks for `x + y`."""
    found = find_top(given, {"="})
    if not problem or not found:
        return None
    left, right = given[: found[0][1]].strip(), given[found[-1][2] :].strip()
    if not left or is_name(left) or not is_constant(right) or is_constant(left):
        return None
    return right if form(left) in _forms(problem) else None


def _whole(numeral: str) -> str:
    """Without the zeros of `2.0`."""
    return re.sub(r"(?<=\d)\.0+$", "", numeral)


def _other_form_is_asked(given: str, wanted: str, problem: str) -> bool:
    """Whether the answer is a sum and the problem asks for factors, or the reverse."""
    asked = ("mul", "pow") if _FACTOR.search(problem) else ("add",) if _EXPAND.search(problem) else ()
    if not asked:
        return False
    try:
        ours, theirs = syntax.parse(given), syntax.parse(wanted)
    except (SyntaxError, RecursionError):
        return False
    if not syntax.symbols(theirs):
        return False
    if "add" in asked:
        return theirs[0] == "add" and ours[0] in ("mul", "pow") and _has_sum(ours)
    return theirs[0] in asked and _has_sum(theirs) and ours[0] == "add"


def _has_sum(tree: Tree) -> bool:
    if tree[0] == "mul":
        return any(part[0] == "add" or _has_sum(part) for part in tree[1])
    return tree[0] == "pow" and tree[1][0] == "add"


@lru_cache(maxsize=64)
def _forms(problem: str) -> frozenset[Any]:
    """Forms of all formulas of a problem; the responses of a group share them."""
    found = set()
    for text in list(_formulas(problem))[:MOST_FORMULAS]:
        cleaned = clean(text)
        if cleaned and len(cleaned) <= LONGEST_ANSWER:
            found.add(form(cleaned))
    return frozenset(found)


def _formulas(problem: str) -> Iterator[str]:
    """Each formula, its lines, its sides, and the parts of lists."""
    for match in _MATH.finditer(problem):
        body = next(part for name in "abcde" if (part := match.group(name)) is not None)
        yield from _pieces(body)
    for match in _PLAIN.finditer(_MATH.sub(" ; ", problem)):
        plain = match.group().strip(" .,")
        while plain and len(plain) > 1:
            yield from _pieces(plain)
            shorter = re.sub(r"[\s.,]+[A-Za-z]+$", "", plain)  # `2x + 3 = 11 for x`
            if shorter == plain:
                break
            plain = shorter


def _pieces(body: str) -> Iterator[str]:
    yield body
    rows = [row.replace("&", " ") for row in re.split(r"\\\\|\n", body)] if "\\begin" not in body else [body]
    for row in rows:
        row = re.sub(r"\\(?:tag|label)\s*\{[^{}]*\}|\[\d*(?:pt|em|ex)\]", " ", row).strip(" .,;:?!")
        if not row:
            continue
        if len(rows) > 1 or row != body:
            yield row
        for part in split_top(row, ","):
            if part != row:
                yield part
            sides = _sides(part)
            if len(sides) > 1:
                yield from sides


def _sides(text: str) -> list[str]:
    found = find_top(text, _RELATIONS)
    edges = [0, *(edge for _, start, end in found for edge in (start, end)), len(text)]
    return [side for i in range(0, len(edges), 2) if (side := text[edges[i] : edges[i + 1]].strip())]


# ---- forms


def same_form(a: str, b: str) -> bool:
    """Whether two cleaned answers differ in nothing but what a form leaves out."""
    return form(a) == form(b)


@lru_cache(maxsize=4096)
def form(cleaned: str) -> Any:
    """A hashable value that is the same for answers of the same form."""
    node = readings(cleaned)[0]
    found = _of_node(node)
    if isinstance(node, (Interval, Union)) and _ABSOLUTE.search(cleaned):  # `|x| < 2`, which is read as `-2 < x < 2`
        return ("absolute value", found)
    return found


def _of_node(node: Node) -> Any:
    if isinstance(node, Scalar):
        return _of_text(node.text, node.percent)
    if isinstance(node, Named):
        return _of_node(node.value)
    if isinstance(node, Equation):
        return ("=", frozenset((_of_text(node.left), _of_text(node.right))))
    if isinstance(node, Inequality):
        return (node.relation, _of_text(node.left), _of_text(node.right))
    if isinstance(node, Interval):
        return ("interval", _of_text(node.low), _of_text(node.high), node.low_closed, node.high_closed)
    if isinstance(node, Group):
        items = [_of_node(item) for item in node.items]
        return ("items", *(sorted(items, key=repr) if node.free or node.kind == "set" else items))
    if isinstance(node, Union):
        return ("union", *sorted((_of_node(part) for part in node.parts), key=repr))
    if isinstance(node, Matrix):
        return ("matrix", *(tuple(_of_node(cell) for cell in row) for row in node.rows))
    if isinstance(node, Ratio):
        return ("ratio", *(_of_text(item) for item in node.items))
    return repr(node)


def _of_text(text: str, percent: bool = False) -> Any:
    try:
        found = _of_tree(syntax.parse(text))
    except (SyntaxError, RecursionError):
        found = key(text).strip(".,;")
    return ("%", found) if percent else found


def _of_tree(tree: Tree) -> Any:
    kind = tree[0]
    if kind in ("add", "neg"):
        terms = [term for term in _terms(tree, False) if term[1] != ("num", Fraction(0))]
        if len(terms) == 1 and not terms[0][0]:
            return terms[0][1]
        return ("add", *sorted(terms, key=repr))
    if kind == "mul":
        minus, factors = _factors(tree)
        product = (
            factors[0]
            if len(factors) == 1
            else ("mul", *sorted(factors, key=repr))
            if factors
            else ("num", Fraction(1))
        )
        return ("add", (True, product)) if minus else product
    if kind == "pow":
        exponent = _of_tree(tree[2])
        return _of_tree(tree[1]) if exponent == ("num", Fraction(1)) else ("pow", _of_tree(tree[1]), exponent)
    if kind == "root":
        return ("root", _of_tree(tree[1]), _of_tree(tree[2]))
    if kind == "fn":
        return ("fn", tree[1], *(_of_tree(part) for part in tree[2]))
    return tuple(tree)


def _terms(tree: Tree, minus: bool) -> Iterator[tuple[bool, Any]]:
    """(is it subtracted, its form) of each term."""
    if tree[0] == "neg":
        yield from _terms(tree[1], not minus)
    elif tree[0] == "add":
        for part in tree[1]:
            yield from _terms(part, minus)
    else:
        found = _of_tree(tree)
        if found[0] == "add" and len(found) == 2:  # a product below zero
            yield (minus != found[1][0], found[1][1])
        else:
            yield (minus, found)


def _factors(tree: Tree) -> tuple[bool, list[Any]]:
    """(whether the product has a minus sign, forms of its factors without ones)."""
    minus = False
    found: list[Any] = []
    for part in tree[1]:
        while part[0] == "neg":
            part, minus = part[1], not minus
        if part[0] == "mul":
            sign, inner = _factors(part)
            minus, found = minus != sign, found + inner
        elif part[0] == "pow" and part[1][0] == "mul" and part[2] == ("num", Fraction(-1)):
            sign, inner = _factors(part[1])
            minus, found = minus != sign, found + [("pow", factor, ("num", Fraction(-1))) for factor in inner]
        elif part[0] == "pow" and part[1] == ("num", Fraction(1)):
            continue
        elif part != ("num", Fraction(1)):
            found.append(_of_tree(part))
    return minus, found


_ORDINAL = re.compile(r"\d[\^\s{}]*(?:\\[a-z]+\s*\{\s*)?(?:st|nd|rd|th)(?![A-Za-z])")


def is_copied_ordinal(given: str, gold: str, problem: str) -> bool:
    """Whether `given`, as it was written, is an ordinal of the statement (`12^{th}`), and the gold none. `clean` drops
    the ending, as it says nothing where the answer was worked out."""
    if not problem or not _ORDINAL.search(given) or _ORDINAL.search(gold):
        return False
    return re.sub(r"\s+", "", given) in re.sub(r"\s+", "", problem)
