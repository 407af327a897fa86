"""Decides whether two answers say the same, given their structure. Symmetric: either side may be the gold."""

import re
from collections.abc import Callable
from fractions import Fraction
from itertools import pairwise

from pipeline.verify.comparing import realsets
from pipeline.verify.comparing.names import renamed
from pipeline.verify.comparing.scalars import Scalars
from pipeline.verify.reading.nodes import (
    BaseNumber,
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
from pipeline.verify.reading.normalize import key
from pipeline.verify.reading.numbers import Number
from pipeline.verify.reading.relations import is_name
from pipeline.verify.reading.structure import choice, read, readings, without_points
from pipeline.verify.reading.units import conflict
from pipeline.verify.reading.words import qualified, subject_of
from pipeline.verify.types import Conventions

MOST_ITEMS = 100
"""Longer lists are compared in their order only: every pair of items would be too many."""

_SETS = (Interval, Union, Intersection, Difference, Inequality)
_COORDINATES = {"x", "y", "z"}
"""`x = 1` and `y = 1` are different lines."""
_DEPENDENT = {"y", "z"}
"""What the equation of a curve or surface is solved for."""
_AGREEING = re.compile(r"\s*(yes|no)\s*,(?!.*\b(?:but|or|yes|no|if|unless|except)\b).*", re.I | re.S)
"""`Yes, it is.`"""
_ARTICLE = re.compile(r"\s*(?:an?|the)\s+(?=[a-z]{3})", re.I)
_EXTREME = re.compile(r"max|min", re.I)
_NAME = re.compile(r"[A-Za-z0-9\s(){}.']*")

Ask = Callable[[str, str, str], bool | None]


class Comparison:
    """One comparison in progress: its conventions, and the deepest layer that it needed."""

    def __init__(self, conventions: Conventions, ask: Ask) -> None:
        self.conventions = conventions
        self.scalars = Scalars(conventions, ask)

    @property
    def layer(self) -> str:
        return self.scalars.layer

    @property
    def unread(self) -> str:
        return self.scalars.unread

    def answers(self, given: str, wanted: str, several: bool = False, wanted_several: bool = False) -> bool:
        """Whether two cleaned answers say the same in any of their readings. `several`: given in several boxes."""
        left, right = qualified(given), qualified(wanted)
        if left.domain and right.domain and left.domain != right.domain:
            return False
        letters, values = zip(choice(given), choice(wanted), strict=True)
        if all(letters) and (letters[0] != letters[1] or all(values)):
            return letters[0] == letters[1] and self.answers(values[0], values[1])
        if self._in_some_reading(left.body, right.body, several, wanted_several):
            return True
        body = renamed(left, right)
        return body is not None and self._in_some_reading(body, right.body, several, wanted_several)

    def _in_some_reading(self, given: str, wanted: str, several: bool, wanted_several: bool) -> bool:
        ours = readings(given, several)
        return any(self.equal(x, y) for y in readings(wanted, wanted_several) for x in ours)

    def equal(self, a: Node, b: Node) -> bool:
        if isinstance(a, Named) or isinstance(b, Named):
            return self._named(a, b)
        if isinstance(a, Scalar) and isinstance(b, Scalar):
            return self.scalars.equal(a, b)
        self.scalars.note("structure")
        if isinstance(a, Group) and isinstance(b, Group):
            return self._groups(a, b)
        if isinstance(a, Group) or isinstance(b, Group):
            group, other = (a, b) if isinstance(a, Group) else (b, a)
            assert isinstance(group, Group)
            return self._group_with(group, other)
        if isinstance(a, Matrix) and isinstance(b, Matrix):
            return self._matrices(a, b)
        if isinstance(a, Matrix) or isinstance(b, Matrix):
            return self._matrix_with_scalar(a, b)
        if isinstance(a, _SETS) and isinstance(b, _SETS):
            return self._sets(a, b)
        if isinstance(a, Equation) and isinstance(b, Equation):
            return self._equations((a.left, a.right), (b.left, b.right))
        if isinstance(a, Equation) and isinstance(b, Scalar):
            return self._solved(a, b)
        if isinstance(b, Equation) and isinstance(a, Scalar):
            return self._solved(b, a)
        if isinstance(a, Ratio) or isinstance(b, Ratio):
            return self._ratios(a, b)
        if isinstance(a, BaseNumber) or isinstance(b, BaseNumber):
            return _base_numbers(a, b)
        if isinstance(a, Word) or isinstance(b, Word):
            return self._words(a, b)
        return False

    # ---- names and equations

    def _named(self, a: Node, b: Node) -> bool:
        if isinstance(a, Named) and isinstance(b, Named):
            if a.label == b.label:
                return self.equal(a.value, b.value)
            if self._constant(a) and self._constant(b):
                lines = a.label in _COORDINATES and b.label in _COORDINATES
                return not lines and self.equal(a.value, b.value)
            if _head(a.label) == _head(b.label) and self.equal(a.value, b.value):
                return True
            return self._equations((a.left, a.right), (b.left, b.right))
        named, other = (a, b) if isinstance(a, Named) else (b, a)
        assert isinstance(named, Named)
        if isinstance(other, Equation):
            return self._equations((named.left, named.right), (other.left, other.right))
        return self.equal(named.value, other)

    def _constant(self, named: Named) -> bool:
        return not isinstance(named.value, Scalar) or not self.scalars.variables(named.value)

    def _equations(self, a: tuple[str, str], b: tuple[str, str]) -> bool:
        self.scalars.note("structure")
        if key(a[0]) == key(b[0]) and self.equal(read(a[1]), read(b[1])):
            return True
        return self.scalars.proportional(_difference(*a), _difference(*b), positive=False)

    def _solved(self, equation: Equation, other: Scalar) -> bool:
        """Whether `other` is what an equation of a curve gives for its one more variable: `3-2x` of `2x+y=3`."""
        theirs = self.scalars.names(other.text)
        if not theirs or other.unit or other.percent:
            return False
        more = (self.scalars.names(equation.left) | self.scalars.names(equation.right)) - theirs
        if len(more) != 1 or not more < _DEPENDENT:
            return False
        return self.scalars.proportional(
            _difference(equation.left, equation.right), _difference(more.pop(), other.text), positive=False
        )

    # ---- groups

    def _groups(self, a: Group, b: Group) -> bool:
        if {a.kind, b.kind} == {"tuple", "set"}:
            return False
        for chain, other in ((_chain(a), b), (_chain(b), a)):
            if chain is not None and other.kind == "list" and not other.joined:
                return chain == [key(item.text) if isinstance(item, Scalar) else "" for item in other.items]
        for group, other in ((a, b), (b, a)):
            if group.kind == "tuple" and other.kind == "list" and other.joined and _are_relations(other):
                return realsets.equal(group, other, self._texts) is True  # `x > 0 and x < 5`
        if {a.joined, b.joined} == {"and", "or"} and _are_relations(a) and _are_relations(b):
            return realsets.equal(a, b, self._texts) is True
        left, right = a.items, b.items
        if "set" not in (a.kind, b.kind) and len(left) == len(right):
            if all(isinstance(item, Named) for item in [*left, *right]):
                return self._named_items(left, right)
            if all(self._item_equal(x, y) for x, y in zip(left, right, strict=True)):
                return True
        if (
            a.kind == b.kind == "list"
            and not (a.free or b.free)
            and len(left) != len(right)
            and _are_numbers(left + right)
        ):
            return False  # `1, 1, 2` as a sequence is not `1, 2`
        if "tuple" in (a.kind, b.kind) or not self._order_free(a, b) or max(len(left), len(right)) > MOST_ITEMS:
            return False
        if "set" not in (a.kind, b.kind) and len(left) == len(right) and all(isinstance(x, Scalar) for x in left):
            return self._matched(left, right)
        return self._covered(left, right) and self._covered(right, left)

    def _matched(self, left: list[Node], right: list[Node]) -> bool:
        """One to one: `1, 2, 2` is not `1, 1, 2`."""
        rest = list(right)
        for x in left:
            found = next((k for k, y in enumerate(rest) if self.equal(x, y)), None)
            if found is None:
                return False
            del rest[found]
        return not rest

    def _item_equal(self, x: Node, y: Node) -> bool:
        return self.equal(x, y)

    def _named_items(self, left: list[Node], right: list[Node]) -> bool:
        """`x = 1, y = 2`: by name where the names are the same ones, else as a list of values."""
        names_left = [item.label for item in left if isinstance(item, Named)]
        names_right = [item.label for item in right if isinstance(item, Named)]
        if len(set(names_left)) == len(names_left) and set(names_left) == set(names_right):
            by_name = {item.label: item for item in right if isinstance(item, Named)}
            return all(self.equal(item, by_name[item.label]) for item in left if isinstance(item, Named))
        if _different_names(Group("list", left)) and _different_names(Group("list", right)):
            return all(self.equal(x, y) for x, y in zip(left, right, strict=True))
        return self._covered(left, right) and self._covered(right, left)

    def _covered(self, left: list[Node], right: list[Node]) -> bool:
        return all(any(self.equal(x, y) for y in right) for x in left)

    def _order_free(self, a: Group, b: Group) -> bool:
        if _are_extremes(a) or _are_extremes(b):
            return True
        if self.conventions.list_order != "auto":
            return self.conventions.list_order == "any"
        if _different_names(a) or _different_names(b):
            return False  # `x = 3, y = 1` is not `1, 3`
        if a.free or b.free or "set" in (a.kind, b.kind):
            return True
        values = [[_number(item) for item in group.items] for group in (a, b)]
        if any(value is None for side in values for value in side):
            return True  # points, words, roots: solutions, not a sequence
        # Two sequences in different orders are different; two sorted lists are the same solutions, sorted otherwise.
        if all(set(side) == {-value for value in side if value is not None} for side in values):
            return True  # `1, -1, 7, -7`
        return all(_is_sorted([value for value in side if value is not None]) for side in values)

    def _group_with(self, group: Group, other: Node) -> bool:
        if len(group.items) == 1 and not (group.kind == "set" and isinstance(other, _SETS)):
            inner = group.items[0]
            return not (group.kind == "set" and isinstance(inner, Group) and inner.kind == "set") and self.equal(
                inner, other
            )
        if group.kind == "list" and group.joined == "or" and isinstance(other, (Scalar, BaseNumber, Ratio)):
            return all(self.equal(item, other) for item in group.items)  # one value in two forms
        if isinstance(other, Interval) and group.kind == "list" and not group.joined and (chain := _chain(other)):
            return chain == [key(item.text) if isinstance(item, Scalar) else "" for item in group.items]
        if isinstance(other, Interval) and group.kind == "tuple" and len(group.items) == 2:
            if other.low_closed or other.high_closed:
                return False
            return self._ends(other, group.items[0], group.items[1])
        if isinstance(other, Matrix):
            cells = _vector(other)
            return (
                cells is not None
                and group.kind != "set"
                and self._groups(Group("tuple", cells), Group("tuple", group.items))
            )
        if isinstance(other, _SETS):
            return realsets.equal(group, other, self._texts) is True  # `x < 1 or x > 3`, `\{1, 2\}`
        return False

    # ---- sets of reals

    def _sets(self, a: Node, b: Node) -> bool:
        if isinstance(a, Inequality) and isinstance(b, Inequality):
            return self._inequalities(a, b)
        a, b = _hole(a), _hole(b)
        if isinstance(a, Interval) and isinstance(b, Interval):
            if (a.low_closed, a.high_closed) != (b.low_closed, b.high_closed) or (
                a.label and b.label and a.label != b.label
            ):
                return False
            return self._texts(a.low, b.low) and self._texts(a.high, b.high)
        same = realsets.equal(a, b, self._texts)
        if same is not None:
            return same
        if isinstance(a, Union) and isinstance(b, Union):  # with letters for ends
            return len(a.parts) <= MOST_ITEMS and self._covered(a.parts, b.parts) and self._covered(b.parts, a.parts)
        for inequality, other in ((a, b), (b, a)):
            if isinstance(inequality, Inequality) and isinstance(other, Interval):
                side = _as_inequality(other)
                return side is not None and self._inequalities(inequality, side)
        return False

    def _inequalities(self, a: Inequality, b: Inequality) -> bool:
        if a.relation != b.relation:
            return False
        left, right = _difference(a.left, a.right), _difference(b.left, b.right)
        return self.scalars.proportional(left, right, positive=a.relation != "!=")

    def _ends(self, interval: Interval, low: Node, high: Node) -> bool:
        return self.equal(read(interval.low), low) and self.equal(read(interval.high), high)

    def _texts(self, a: str, b: str) -> bool:
        return key(a).lstrip("+") == key(b).lstrip("+") or self.equal(read(a), read(b))

    # ---- matrices, ratios, words

    def _matrices(self, a: Matrix, b: Matrix) -> bool:
        if [len(row) for row in a.rows] != [len(row) for row in b.rows]:
            return False
        with self.scalars.entries():
            return all(
                self.equal(x, y)
                for left, right in zip(a.rows, b.rows, strict=True)
                for x, y in zip(left, right, strict=True)
            )

    def _matrix_with_scalar(self, a: Node, b: Node) -> bool:
        """A matrix against an expression of matrices, which only the symbolic layer can work out."""
        matrix, other = (a, b) if isinstance(a, Matrix) else (b, a)
        if isinstance(other, Scalar) and "\\begin" in other.text and isinstance(matrix, Matrix):
            return self.scalars.symbolic_equal(_matrix_latex(matrix), other.text)
        return False

    def _ratios(self, a: Node, b: Node) -> bool:
        ratio, other = (a, b) if isinstance(a, Ratio) else (b, a)
        assert isinstance(ratio, Ratio)
        if isinstance(other, Ratio):
            if len(ratio.items) != len(other.items) or conflict(ratio.unit, other.unit):
                return False
            if any(len(item) == 2 and item[0] == "0" for item in [*ratio.items[1:], *other.items[1:]]):  # a time of day
                return [key(item) for item in ratio.items] == [key(item) for item in other.items]
            first, second = ratio.items, other.items
            return all(
                self._texts(f"({x})\\cdot({v})", f"({y})\\cdot({u})")
                for (x, y), (u, v) in zip(pairwise(first), pairwise(second), strict=True)
            )
        if isinstance(other, Scalar) and len(ratio.items) == 2:
            return self._texts(f"\\frac{{{ratio.items[0]}}}{{{ratio.items[1]}}}", other.text)
        return False

    def _words(self, a: Node, b: Node) -> bool:
        if isinstance(a, (Word, Scalar)) and isinstance(b, (Word, Scalar)):
            x, y = _letters(a), _letters(b)
            if not x or not y:
                return False
            if len(x) == 1 or len(y) == 1 or self.conventions.text_case:
                return x == y
            return x.casefold() == y.casefold() or _same_person(a.text, b.text)
        return False


def _number(item: Node) -> Fraction | None:
    return item.number.value if isinstance(item, Scalar) and item.number is not None else None


def _are_numbers(items: list[Node]) -> bool:
    return all(_number(item) is not None for item in items)


def _are_relations(group: Group) -> bool:
    return all(isinstance(item, (Interval, Inequality)) for item in group.items)


def _different_names(group: Group) -> bool:
    """Whether each item has another name, beyond an index: `x = 1, y = 2` has, `x_1 = 1, x_2 = 2` has not."""
    names = [re.sub(r"[_{}\d']", "", item.label) for item in group.items if isinstance(item, Named)]
    return len(names) == len(group.items) and len(set(names)) == len(names) > 1


def _are_extremes(group: Group) -> bool:
    """`Maximum: 3, Minimum: 1`: the names say which is which, in any order."""
    found: dict[str, Fraction] = {}
    for item in group.items:
        kind = _EXTREME.search(item.label) if isinstance(item, Named) else None
        value = _number(item.value) if isinstance(item, Named) else None
        if kind is None or value is None:
            return False
        found[kind.group().lower()] = value
    return len(group.items) == len(found) == 2 and found["max"] >= found["min"]


def _is_sorted(values: list[Fraction]) -> bool:
    return all(x <= y for x, y in pairwise(values)) or all(x >= y for x, y in pairwise(values))


def _head(label: str) -> str:
    """`W` of `W(x)` and of `W(n)`; a label without arguments is itself."""
    return label.split("(")[0] if "(" in label and not label.startswith("(") else label + "!"


def _difference(left: str, right: str) -> str:
    return f"({left})-({right})"


def _hole(node: Node) -> Node:
    """`x \\ne 3` as what is left of the real line."""
    if isinstance(node, Inequality) and node.relation == "!=":
        value = read(node.right)
        if isinstance(value, Scalar) and value.number is not None:
            return without_points([value.text])
    return node


def _as_inequality(interval: Interval) -> Inequality | None:
    low, high = key(interval.low), key(interval.high)
    name = interval.label or "x"
    if low == "-\\infty":
        return Inequality("<=" if interval.high_closed else "<", name, interval.high)
    if high in ("\\infty", "+\\infty"):
        return Inequality("<=" if interval.low_closed else "<", interval.low, name)
    return None


def _vector(matrix: Matrix) -> list[Node] | None:
    if len(matrix.rows) == 1:
        return matrix.rows[0]
    return [row[0] for row in matrix.rows] if all(len(row) == 1 for row in matrix.rows) else None


def _matrix_latex(matrix: Matrix) -> str:
    rows = [" & ".join(cell.text if isinstance(cell, Scalar) else "?" for cell in row) for row in matrix.rows]
    return r"\begin{bmatrix}" + r" \\ ".join(rows) + r"\end{bmatrix}"


def _base_numbers(a: Node, b: Node) -> bool:
    values = []
    for node in (a, b):
        if isinstance(node, BaseNumber):
            values.append(Fraction(int(node.digits, node.base)))
        elif isinstance(node, Scalar) and isinstance(node.number, Number):
            values.append(node.number.value)
        else:
            return False
    return values[0] == values[1]


def _same_person(a: str, b: str) -> bool:
    """`Petya` and `Petya wins`, also `Petya will take the last stone`."""
    left, right = subject_of(a), subject_of(b)
    if left and right:
        return left[1] and right[1] and _who(left[0]) == _who(right[0])
    return (left is not None and _who(left[0]) == _who(b)) or (right is not None and _who(right[0]) == _who(a))


def _who(text: str) -> str:
    return _ARTICLE.sub("", text.replace("\\text", "").strip(" {}.")).casefold()


def _chain(node: Node) -> list[str] | None:
    """The names of `b < a < d < c` in their order; None for anything else."""
    if isinstance(node, Interval):
        names = [node.low, node.label, node.high]
        return [*map(key, names)] if not (node.low_closed or node.high_closed) and all(map(is_name, names)) else None
    if not isinstance(node, Group) or node.kind != "tuple" or len(node.items) < 2:
        return None
    links = [item for item in node.items if isinstance(item, Inequality) and item.relation == "<"]
    if len(links) < len(node.items) or any(x.right != y.left for x, y in pairwise(links)):
        return None
    names = [links[0].left, *(link.right for link in links)]
    return [*map(key, names)] if all(map(is_name, names)) else None


def _letters(node: Word | Scalar) -> str:
    """What is read aloud of a word or a name; nothing of a formula, whose signs matter (`x-y` is not `x+y`)."""
    text = node.text.replace("\\text", "")
    if isinstance(node, Word):
        text = _AGREEING.sub(r"\1", _ARTICLE.sub("", text))
    if isinstance(node, Scalar) and not _NAME.fullmatch(text):
        return ""
    letters = "".join(character for character in text if character.isalnum())
    return "DNE" if letters.casefold() == "doesnotexist" else letters
