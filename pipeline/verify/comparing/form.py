r"""Whether an answer that equals the gold also has the form of an answer: `37\cdot 48` is worth 1776, but answers nothing.

Used where `verify.form` is `evaluated`, and only after the layers have said `equal`. Closed forms that people give as
answers pass (`2^{10}`, `5!`, `\frac{3\sqrt2}{4}`, `\ln 2`, `1+\sqrt5`), and so does every operation that the gold holds.
"""

import re
from functools import lru_cache
from typing import Any

from pipeline.verify.comparing import evaluate
from pipeline.verify.reading import syntax
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
)
from pipeline.verify.reading.normalize import clean, key
from pipeline.verify.reading.numbers import parse_number
from pipeline.verify.reading.relations import is_name
from pipeline.verify.reading.scan import find_top, peel, split_top
from pipeline.verify.reading.sentences import MATH
from pipeline.verify.reading.structure import read
from pipeline.verify.reading.syntax import Tree
from pipeline.verify.reading.units import strip_units

LONGEST_PROBLEM = 20_000
"""Characters of a statement in which copies are looked for."""
_OPERATORS = re.compile(
    r"\\(?:sum|prod|int|iint|oint|lim|det|bmod|pmod|gcd|lcm|max|min|dots)(?![A-Za-z])|\\begin\s*\{\w*matrix\}"
    r"|\\frac\s*\{\s*d\s*\}\s*\{\s*d"
)
"""What asks for work in any answer."""
_FAMILIES = {
    **dict.fromkeys(("sin", "cos", "tan", "cot", "sec", "csc"), "trigonometric function"),
    **dict.fromkeys(("arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc"), "inverse function"),
    **dict.fromkeys(("sinh", "cosh", "tanh", "coth", "arsinh", "arcosh", "artanh"), "hyperbolic function"),
    **dict.fromkeys(("ln", "log"), "logarithm"),
    **dict.fromkeys(("gcd", "lcm", "max", "min", "mod", "floor", "ceil", "abs", "binom"), ""),
}  # fmt: skip
_ORDINAL = re.compile(r"\d[\^\s{}]*(?:\\[a-z]+\s*\{\s*)?(?:st|nd|rd|th)(?![A-Za-z])")
_RELATIONS = {"=", "<", ">", r"\le", r"\ge", r"\ne", r"\approx", r"\equiv", r"\in", r"\to"}
_PLAIN = re.compile(r"(?<![\w.\\])[-+(]*\d[\d.,/+*^()x×÷\s:-]*\d[!%)]*|(?<![\w.\\])\d+!|(?<![\w.\\])\d+")
"""Numbers and simple operations in the prose of a statement."""


def unevaluated(given: str, wanted: str, problem: str | None) -> str:
    """Why `given` (cleaned, equal to `wanted`) is not an answer of the gold's form; the empty string where it is one."""
    if _canonical(given) == _canonical(wanted):
        return ""
    gold = read(wanted)
    reason = _operator(given, wanted) or _unsolved(read(given), gold) or _worked_out(read(given), gold)
    if not reason and problem and _copied(given, wanted, problem):
        reason = "copied from the problem"
    return reason


def copied_ordinal(given: str, gold: str, problem: str | None) -> bool:
    """Whether `given`, as it was written, is an ordinal of the statement (`12^{th}`), and the gold none. `clean` drops
    the ending, as it says nothing where the answer was worked out."""
    if not problem or not _ORDINAL.search(given) or _ORDINAL.search(gold):
        return False
    return _squeezed(given) in _squeezed(problem[:LONGEST_PROBLEM])


def _squeezed(text: str) -> str:
    return re.sub(r"\s+", "", text)


# ---- operations


def _operator(given: str, wanted: str) -> str:
    """Sums, integrals, limits, determinants and the like, which the gold does not hold."""
    of_gold = set(_OPERATORS.findall(wanted))
    matrix = "\\begin" in given and not isinstance(_value(read(given)), Scalar)
    for token in _OPERATORS.findall(given):
        if token.startswith("\\begin"):
            determinant = "vmatrix" in token.lower()
            if (matrix and not determinant) or (token in of_gold and isinstance(_value(read(wanted)), Scalar)):
                continue
            return "determinant" if determinant else "operation on matrices"
        if token in of_gold or (token == r"\dots" and parse_number(given) is not None):
            continue
        return "derivative" if "frac" in token else token.lstrip("\\")
    return ""


def _worked_out(given: Node, gold: Node) -> str:
    """The operation that is left to do somewhere in `given`, where the gold is made of constants."""
    if isinstance(given, Group) and given.joined == "or" and isinstance(_value(gold), Scalar):
        given = given.items[-1]  # `3 + 4 = 7` is worked out
    texts = _leaves(gold)
    trees = [tree for text in texts if (tree := _tree(text)) is not None]
    if any(syntax.symbols(tree) for tree in trees):
        return ""
    if isinstance(_value(given), BaseNumber) or isinstance(_value(gold), BaseNumber):
        return _bases(_value(given), _value(gold))
    if trees and any(syntax.symbols(tree) for text in _leaves(given) if (tree := _tree(text)) is not None):
        return "variables that cancel"
    allowed: set[str] = set()
    for tree in trees:
        _operations(tree, allowed)
    rational = bool(trees) and all(evaluate.exact(tree) is not None for tree in trees)
    for text in _leaves(given):
        found = _left_to_do(text, rational)
        for operation in sorted(found - allowed):
            return operation
    return ""


def _bases(given: Node, gold: Node) -> str:
    if isinstance(given, BaseNumber) and isinstance(gold, BaseNumber):
        return "" if given.base == gold.base else "another base"
    if isinstance(given, BaseNumber):
        return "another base" if given.base != 10 else ""
    assert isinstance(gold, BaseNumber)
    digits = isinstance(given, Scalar) and key(given.text).lower() == gold.digits.lower()
    return "" if digits or gold.base == 10 else "another base"


def _left_to_do(text: str, rational: bool) -> set[str]:
    number = parse_number(text)
    tree = _tree(text)
    if tree is None:
        return set()
    if number is not None:
        if number.places is None and number.value.denominator == 1 and ("/" in text or "\\frac" in text):
            return set() if _trivial_quotient(tree) else {"quotient"}
        return set()
    if _mixed(text):
        return set()
    found: set[str] = set()
    _operations(tree, found)
    if not rational:
        found.discard("root")
    if re.fullmatch(r"-?\s*[\d.,]+\s*\\cdot\s*10\s*\^.*", text):
        found.discard("product")
    return found


def _trivial_quotient(tree: Tree) -> bool:
    """`5/1`: nothing is left to do."""
    while tree[0] == "neg":
        tree = tree[1]
    return bool(tree[0] == "mul" and tree[1][-1] == ("pow", ("num", 1), ("num", -1)))


def _mixed(text: str) -> bool:
    r"""A mixed number with something beside it: `2\frac34\pi`."""
    return "+" not in text and "-" not in text.lstrip("- ") and re.match(r"-?\s*\d+\s*\\frac", text) is not None


def _operations(tree: Tree, found: set[str]) -> None:
    """Adds the operations of `tree`, a constant, that an evaluated answer has done already."""
    kind = tree[0]
    if kind == "add":
        terms = [_without_coefficient(part) for part in tree[1]]
        if len(set(terms)) < len(terms):
            found.add("sum")
    elif kind == "mul":
        _product(_factors(tree), found)
    elif kind == "pow":
        exponent = evaluate.exact(tree[2])
        if (_rational(tree[1]) and not _fraction(tree[1])) or (_imaginary(tree[1]) and exponent != -1):
            found.add("power")
        if exponent is not None and exponent.denominator != 1 and _rational(tree):
            found.add("root")
    elif kind == "root" and _rational(tree):
        found.add("root")
    elif kind == "fn":
        name = tree[1]
        if name in _FAMILIES:
            found.add(_FAMILIES[name] or name)
            if _rational(tree):
                found.add(f"{name} with a rational value")
        elif name == "factorial" and tree[2][0][0] != "num":
            found.add("factorial")
    for part in syntax.children(tree):
        _operations(part, found)


def _without_coefficient(term: Tree) -> str:
    """What is left of a term without its rational factors: equal for terms that can be added up."""
    return repr(sorted(repr(_sorted(factor)) for factor in _factors(term) if not _rational(factor)))


def _imaginary(tree: Tree) -> bool:
    return tree == ("const", "i") or any(_imaginary(part) for part in syntax.children(tree))


def _factors(tree: Tree) -> list[Tree]:
    if tree[0] == "neg":
        return _factors(tree[1])
    return [factor for part in tree[1] for factor in _factors(part)] if tree[0] == "mul" else [tree]


def _product(factors: list[Tree], found: set[str]) -> None:
    above: list[Tree] = []
    below: list[Tree] = []
    sums = 0
    for factor in factors:
        sums += factor[0] == "add" or _imaginary(factor)
        if factor[0] == "pow" and factor[2] == ("num", -1) and _imaginary(factor[1]):
            found.add("quotient")
        inverse = factor[0] == "pow" and factor[2] == ("num", -1)
        for part in _factors(factor[1]) if inverse else [factor]:
            if _rational(part) and part not in (("num", 1), ("neg", ("num", 1))):
                (below if inverse else above).append(part)
    if len(above) > 1 or len(below) > 1 or sums > 1:
        found.add("product")
    elif above and below:
        value = evaluate.exact(("mul", [above[0], ("pow", below[0], ("num", -1))]))
        whole = value is not None and value.denominator == 1
        if whole or any(part[0] == "num" and part[1].denominator != 1 for part in (*above, *below)):
            found.add("quotient")
    elif below and below[0][0] == "num" and below[0][1].denominator != 1:
        found.add("quotient")


def _rational(tree: Tree) -> bool:
    return evaluate.exact(tree) is not None


def _literal(tree: Tree) -> bool:
    return tree[0] == "num" or (tree[0] == "neg" and _literal(tree[1]))


def _fraction(tree: Tree) -> bool:
    factors = _factors(tree)
    return all(_literal(part) or (part[0] == "pow" and _literal(part[1]) and _literal(part[2])) for part in factors)


# ---- solved answers


def _unsolved(given: Node, gold: Node) -> str:
    """An equation or inequality where the gold says what the unknown is."""
    if not _solved(gold):
        return ""
    return "" if _solved(given) else "not solved"


def _solved(node: Node) -> bool:
    if isinstance(node, Named):
        return is_name(node.left) or is_name(node.right) or (_constant(node.right) and not _symbols(node.left))
    if isinstance(node, Equation):
        return False
    if isinstance(node, Inequality):
        sides = (node.left, node.right)
        return any(is_name(a) and not (_symbols(a) & _symbols(b)) for a, b in (sides, sides[::-1]))
    if isinstance(node, Interval):
        return not node.label or is_name(node.label)
    if isinstance(node, (Union, Intersection)):
        return all(_solved(part) for part in node.parts)
    return all(_solved(item) for item in node.items) if isinstance(node, Group) else True


def _constant(text: str) -> bool:
    tree = _tree(text)
    return tree is not None and not syntax.symbols(tree)


def _symbols(text: str) -> set[str]:
    tree = _tree(text)
    return syntax.symbols(tree) if tree is not None else set()


# ---- copies


def _copied(given: str, wanted: str, problem: str) -> bool:
    return _canonical(given) in _expressions(problem[:LONGEST_PROBLEM]) and _canonical(given) != _canonical(wanted)


@lru_cache(maxsize=4096)
def _expressions(problem: str) -> frozenset[str]:
    """Every formula of a statement, with its sides and parts, in canonical text."""
    found: set[str] = set()
    for match in MATH.finditer(problem):
        formula = clean(next(part for part in match.groups() if part is not None))
        found |= _pieces(formula)
    prose = MATH.sub(" ; ", problem)
    for match in _PLAIN.finditer(prose):
        found |= _pieces(clean(match.group()))
    return frozenset(found)


def _pieces(formula: str, depth: int = 0) -> set[str]:
    found = {_canonical(formula)}
    if depth > 3:
        return found
    marks = find_top(formula, _RELATIONS)
    ends = [0, *[end for _, _, end in marks]]
    starts = [*[start for _, start, _ in marks], len(formula)]
    parts = [formula[a:b].strip() for a, b in zip(ends, starts, strict=True)] if marks else []
    parts += [part.strip() for separator in (",", ";") if len(p := split_top(formula, separator)) > 1 for part in p]
    inner, bracket = peel(formula)
    if bracket in ("()", "{}"):
        parts.append(inner)
    for part in parts:
        if part and part != formula:
            found |= _pieces(part, depth + 1)
    return found


@lru_cache(maxsize=20_000)
def _canonical(text: str) -> str:
    """One text for `text` with or without a unit, a name before it, and in whichever order its terms and factors stand."""
    text = text.strip().strip("?.").strip()
    text = text.removeprefix(r"\dollar").strip()
    stripped, percent, _ = strip_units(text)
    text = stripped.strip() or text
    tree = _tree(text)
    return (repr(_sorted(tree)) if tree is not None else key(text)) + ("%" if percent else "")


def _sorted(tree: Any) -> Any:
    if not isinstance(tree, tuple):
        return str(tree)
    if tree[0] in ("add", "mul"):
        return (tree[0], sorted((_sorted(part) for part in tree[1]), key=repr))
    if tree[0] == "fn":
        return (tree[0], tree[1], [_sorted(part) for part in tree[2]])
    return (tree[0], *[_sorted(part) for part in tree[1:]])


# ---- shared


def _value(node: Node) -> Node:
    return _value(node.value) if isinstance(node, Named) else node


def _leaves(node: Node) -> list[str]:
    """The texts of the scalars that `node` is made of."""
    if isinstance(node, Scalar):
        return [node.text] if node.number is None or parse_number(node.text) is not None else []  # `twelve`
    if isinstance(node, Named):
        return _leaves(node.value)
    if isinstance(node, Group):
        return [text for item in node.items for text in _leaves(item)]
    if isinstance(node, Interval):
        return [node.low, node.high]
    if isinstance(node, (Union, Intersection)):
        return [text for part in node.parts for text in _leaves(part)]
    if isinstance(node, Difference):
        return _leaves(node.base) + _leaves(node.removed)
    if isinstance(node, Matrix):
        return [text for row in node.rows for cell in row for text in _leaves(cell)]
    if isinstance(node, Ratio):
        return list(node.items)
    if isinstance(node, Inequality) and _solved(node):
        return [side for side in (node.left, node.right) if not is_name(side)]
    return []


@lru_cache(maxsize=20_000)
def _tree(text: str) -> Tree | None:
    try:
        return syntax.parse(text)
    except (SyntaxError, RecursionError):
        return None
