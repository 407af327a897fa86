r"""Checks, for `verify.form=evaluated`, that an answer equal to the gold has been worked out.

`37 \cdot 48` equals 1776 and `2x + 3 = 11` says `x = 4`, but both stand in the problem: a policy that is paid for them
learns to copy. Here an answer is asked for the *work* that is left in it: kinds of operations, as words. What the gold
itself leaves undone, the answer may leave undone too, so that `6!`, `2^3 \cdot 3^2` and `\sin 1` stay paid where they
are golds.
"""

import re
from collections.abc import Iterator
from fractions import Fraction

from pipeline.verify.comparing import algebra, copies, evaluate
from pipeline.verify.comparing.sound import parts, values
from pipeline.verify.reading import syntax
from pipeline.verify.reading.nodes import (
    BaseNumber,
    Difference,
    Equation,
    Group,
    Inequality,
    Intersection,
    Named,
    Node,
    Ratio,
    Scalar,
    Union,
    Word,
)
from pipeline.verify.reading.normalize import key
from pipeline.verify.reading.numbers import parse_number
from pipeline.verify.reading.relations import is_name
from pipeline.verify.reading.structure import choice, readings
from pipeline.verify.reading.syntax import Tree, children
from pipeline.verify.reading.words import qualified

COPIED = "copied from the problem"
_LARGE = 10**9
"""From here on nobody writes out a power, or a sum of powers: `3^{50} - 1` is an answer."""
_SHORT_POWER = 10
"""`7^2` may be an answer; `37^2` is a product that was not worked out."""
_MINUS_ONE_FROM = 6
"""`2^{10} - 1` may be an answer from this exponent on."""
_ARITHMETIC = frozenset({"sum", "product", "quotient", "power", "root", "binom", "factorial"})
_FAMILIES = {
    **dict.fromkeys(("sin", "cos", "tan", "cot", "sec", "csc"), "trigonometric function"),
    **dict.fromkeys(("sinh", "cosh", "tanh", "coth"), "hyperbolic function"),
    **dict.fromkeys(("arcsin", "arccos", "arctan", "arccot", "arcsec", "arccsc"), "inverse trigonometric function"),
    **dict.fromkeys(("arsinh", "arcosh", "artanh", "ln", "log"), "logarithm"),
}
"""Functions that turn into each other; every other one is a kind by itself."""
_WORKED_OUT = frozenset({"gcd", "lcm", "mod", "max", "min"})
"""Functions that are not left in an expression with variables either."""
_UNREADABLE = re.compile(
    r"\\(?:sum|prod|int|iint|iiint|oint|lim|det|begin|frac\s*\{\s*(?:d|\\partial)\b|limsup|liminf|sup|inf|deg|dim|rank|Pr)(?![A-Za-z])"
    r"|\\text\s*\{[^{}]*\}|(?<![A-Za-z\\])[A-Za-z]{3,}"
)
_ONE: Tree = ("num", Fraction(1))


def objection(given: str, wanted: str, problem: str) -> str:
    """Which work is left in `given`, which was found equal to `wanted` (both cleaned); empty where none is."""
    letter, value = choice(given)
    if letter:
        given = value or letter
    given, wanted = qualified(given).body, qualified(wanted).body
    if key(given) == key(wanted):
        return ""
    if parse_number(wanted) is None and copies.same_form(given, wanted):
        return ""
    if problem and copies.is_copy(given, wanted, problem):
        return COPIED
    golds = readings(wanted)
    if letter and not value:
        return ""
    found = [reason for node in readings(given) if (reason := _of_reading(node, golds[0])) is not None]
    return min(found, key=len, default="")


def _of_reading(given: Node, gold: Node) -> str | None:
    r"""The work left in one reading; None where it cannot be the reading that was found equal. Of `3 \cdot 4 = 12`, which
    states one value in two forms, the better one counts."""
    if not (isinstance(given, Group) and given.joined == "or") or isinstance(gold, Group):
        return _left_undone(given, gold)
    reasons = [_left_undone(item, gold) for item in given.items if _same_number(item, gold)]
    return min(reasons, key=len) if reasons else None


def _same_number(item: Node, gold: Node) -> bool:
    while isinstance(gold, Named):
        gold = gold.value
    if not isinstance(gold, Scalar) or not isinstance(item, Scalar):
        return True
    if gold.number is None:
        return item.number is None or not _is_irrational_text(gold.text)
    return item.number is not None and item.number.value == gold.number.value


def _is_irrational_text(text: str) -> bool:
    try:
        return _is_irrational(syntax.parse(text))
    except (SyntaxError, RecursionError):
        return False


def _left_undone(given: Node, gold: Node) -> str:
    if _unsolved(given) and not _unsolved(gold) and _is_solved(gold):
        return "not solved"
    ours, theirs = work(given), work(gold)
    if _has_base(gold) and not _has_base(given):
        return "base"
    if theirs & _ARITHMETIC:
        theirs |= _ARITHMETIC
    constant = not _variables(gold) and not any(
        isinstance(leaf, Scalar) and leaf.unit == "degree" for leaf in _leaves(gold)
    )
    if constant and "irrational" in ours and "irrational" not in theirs:
        return "not worked out"
    return ", ".join(sorted(ours - theirs - {"irrational"}))


def _unsolved(node: Node) -> bool:
    if isinstance(node, Inequality) and node.relation == "!=" and is_name(node.left):
        return parse_number(re.sub(r"^\\pm\s*", "", node.right)) is None
    return isinstance(node, (Equation, Inequality)) or any(_unsolved(part) for part in parts(node))


def _has_base(node: Node) -> bool:
    return any(isinstance(leaf, BaseNumber) and leaf.base != 10 for leaf in _leaves(node))


def _is_solved(gold: Node) -> bool:
    """Whether `gold` gives values: `x = 4`, `x > 3`, but not `y = 2x + 3`."""
    return not _variables(gold)


def _variables(node: Node) -> bool:
    for text in values(node):
        try:
            if syntax.symbols(syntax.parse(text)):
                return True
        except (SyntaxError, RecursionError):
            continue
    return False


# ---- the work left in an answer


def work(node: Node) -> set[str]:
    """Kinds of operations that are left to do in `node`."""
    found = _of_sets(node)
    for leaf in _leaves(node):
        if isinstance(leaf, BaseNumber):
            found.add(f"base {leaf.base}" if leaf.base != 10 else "")
        elif isinstance(leaf, Scalar) and leaf.number is not None:
            found |= _of_numeral(leaf.text)
        elif not isinstance(leaf, Word):
            for text in values(leaf):
                found |= _of_text(text)
            if isinstance(leaf, Ratio) and _is_whole_quotient(leaf):
                found.add("quotient")
    return found - {""}


def _of_sets(node: Node) -> set[str]:
    r"""`[1,3] \cap [2,4]`, and `\{1,2\} \cup \{2,3\}`. A union with an interval in it is a usual answer."""
    if isinstance(node, Union):
        return {"union"} if all(isinstance(part, Group) and part.kind == "set" for part in node.parts) else set()
    if isinstance(node, Difference):
        return {"difference"} if isinstance(node.base, Group) else set()
    return {"intersection"} if isinstance(node, Intersection) else set()


def _leaves(node: Node) -> Iterator[Node]:
    inner = parts(node)
    if inner or isinstance(node, Group):
        for part in inner:
            yield from _leaves(part)
    else:
        yield node


def _of_numeral(text: str) -> set[str]:
    r"""`\frac{84}{7}` is 12, left undone; `\frac{6}{8}` is a fraction, if not reduced; `0.5/3` is a division."""
    bare = re.sub(r"[\s{}()]", "", text).lstrip("+-")
    if "/" in bare or "\\frac" in bare:
        number = parse_number(text)
        below = re.search(r"(\d+)\}?\s*\)?$", text.strip())
        if "." in bare or (
            number is not None and number.value.denominator == 1 and below is not None and below[1] != "1"
        ):
            return {"quotient"}
    return set()


def _is_whole_quotient(ratio: Ratio) -> bool:
    numbers = [parse_number(item) for item in ratio.items]
    if len(numbers) != 2 or any(number is None for number in numbers):
        return False
    below = numbers[1]
    return bool(
        below and numbers[0] and below.value not in (0, 1) and (numbers[0].value / below.value).denominator == 1
    )


def _of_text(text: str) -> set[str]:
    if parse_number(text) is not None:
        return _of_numeral(text)
    try:
        tree = syntax.parse(text)
    except (SyntaxError, RecursionError):
        return {re.sub(r"\s", "", match.group()) for match in _UNREADABLE.finditer(text)} or {"unread"}
    if syntax.symbols(tree):
        return {name for name in _functions(tree) if name in _WORKED_OUT}
    return of_constant(tree)


def _functions(tree: Tree) -> set[str]:
    own = {tree[1]} if tree[0] == "fn" else set()
    return own.union(*(_functions(part) for part in children(tree)))


def of_constant(tree: Tree) -> set[str]:
    """Kinds of operations left in a tree without variables."""
    value = evaluate.exact(tree)
    found = {"irrational"} if _is_irrational(tree) else set()
    if value is not None and "irrational" not in found:
        return {"sum"} if tree[0] == "add" and _is_mixed(tree) else _of_rational(tree, value)
    return found | _of_closed_form(tree)


def _is_irrational(tree: Tree) -> bool:
    """Whether `tree` writes roots, pi, e, i or functions of them, whatever its value is."""
    kind = tree[0]
    if kind == "const" or kind == "root" or (kind == "fn" and (tree[1] in _FAMILIES or tree[1] == "exp")):
        return True
    if kind == "pow" and (exponent := evaluate.exact(tree[2])) is not None and exponent.denominator != 1:
        return True
    return any(_is_irrational(part) for part in children(tree))


def _of_rational(tree: Tree, value: Fraction) -> set[str]:
    """Of a tree of rational numbers alone."""
    kind = tree[0]
    large = max(abs(value.numerator), value.denominator) >= _LARGE
    if kind == "num":
        return set()
    if kind == "neg":
        return {"sum"} if tree[1][0] == "neg" else _of_rational(tree[1], -value)
    if kind == "add":
        if _is_mixed(tree) or (large and sum(not _has_power(part) for part in tree[1]) <= 1) or _is_power_and_one(tree):
            return set()
        return {"sum"}
    if kind == "mul":
        return _of_product(tree, value, large)
    if kind == "pow":
        return _of_power(tree, large)
    if kind == "fn":
        if tree[1] == "factorial" and tree[2][0][0] == "num":
            return set()
        return set() if large and tree[1] == "binom" else {tree[1]}
    return {"root"}


def _of_product(tree: Tree, value: Fraction, large: bool) -> set[str]:
    if sum(part[0] in ("num", "mul") for part in tree[1]) > 1 and any(
        evaluate.exact(part) == 1 for part in tree[1]
    ):  # `17 \cdot 1`, `\frac34 \cdot 1`
        return {"product"}
    above, below = _factors(tree)
    if len(above) > 1 or len(below) > 1:
        if _is_scientific(above, below) or (
            large
            and sum(not _has_power(part) for part in [*above, *below]) <= 2 > len(below)
            and any(map(_has_power, [*above, *below]))
            and sum(not _has_power(p) for p in above) <= 1
        ):
            return set()
        return {"product"}
    if below:
        if value.denominator == 1 or not all(_is_plain(part) for part in [*above, *below]):
            return {"quotient"}
        return set()
    return _of_rational(above[0], value) if above else {"product"}


def _is_plain(tree: Tree) -> bool:
    """What may stand above or below a fraction's bar: a whole number, or a power of one."""
    if tree[0] == "neg":
        return _is_plain(tree[1])
    if tree[0] == "num":
        return tree[1].denominator == 1
    if tree[0] == "fn":
        return tree[1] == "factorial" and tree[2][0][0] == "num"
    return tree[0] == "pow" and _is_plain(tree[1]) and tree[2][0] == "num"


def _of_power(tree: Tree, large: bool) -> set[str]:
    base, exponent = tree[1], tree[2]
    if base[0] == "neg":
        base = base[1]
    if exponent[0] == "neg":
        exponent = exponent[1]
    times = exponent[1] if exponent[0] == "num" else None
    if base[0] == "mul" and _of_rational(base, evaluate.exact(base) or Fraction(0)) == set():  # `(3/4)^5`
        return set() if times is not None and times > 1 else {"power"}
    if times is None or base[0] != "num" or base[1].denominator != 1:
        return set() if large and base[0] == "num" and base[1].denominator == 1 else {"power"}
    if times in (0, 1) and not (times == 1 and tree[2][0] == "neg"):
        return {"power"}
    if base[1] in (0, 1) or (times == 2 and base[1] > _SHORT_POWER and not _is_power_of_ten(base[1])):
        return {"power"}
    return set()


def _of_closed_form(tree: Tree) -> set[str]:
    """Of a tree that has something irrational in it."""
    kind = tree[0]
    if kind in ("num", "const"):
        return set()
    value = evaluate.exact(tree)
    if value is not None and not _is_irrational(tree):
        return _of_rational(tree, value)
    found: set[str] = set().union(*(_of_closed_form(part) for part in children(tree) if not _is_unit_power(tree, part)))
    if kind == "add":
        if sum(evaluate.exact(part) is not None for part in tree[1]) > 1 or _has_like_terms(tree):
            found.add("sum")
    elif kind == "mul":
        above, below = _factors(tree)
        if any(_writes_i(part) for part in below):
            found.add("quotient")
        if sum(_is_root_of_number(part) for part in above) > 1:
            found.add("product")
        if any(_is_square_of_number(part) for part in above):
            found.add("power")
        quotients = [part for part in tree[1] if part[0] == "mul" and evaluate.exact(part) is not None]
        found |= set().union(*(_of_closed_form(part) for part in [*above, *below, *quotients]))
        numbers = [[value for part in side if (value := evaluate.exact(part)) is not None] for side in (above, below)]
        if any(len(side) > 1 for side in numbers):
            found.add("product")
        if len(numbers[0]) == len(numbers[1]) == 1 and (numbers[0][0] / numbers[1][0]).denominator == 1:
            found.add("quotient")
        if sum(part[0] == "add" for part in above) > 1:
            found.add("product")
    elif kind in ("pow", "root"):
        exponent = evaluate.exact(tree[2] if kind == "pow" else tree[1])
        if value is not None:
            found.add("root")
        whole = exponent if kind == "pow" and exponent is not None and exponent.denominator == 1 else None
        if whole is not None and (
            tree[1] == ("const", "i") or whole in (0, 1) or (tree[1][0] in ("add", "root") and whole > 1)
        ):
            found.add("power")
        if (
            kind == "root"
            and (radicand := evaluate.exact(tree[2])) is not None
            and radicand < 0
            and tree[1] == ("num", Fraction(2))
        ):
            found.add("root of a negative number")
    elif kind == "fn" and tree[1] != "factorial":
        found.add(_FAMILIES.get(tree[1], "" if tree[1] == "exp" else tree[1]))
    elif kind == "neg" and tree[1][0] == "neg":
        found.add("sum")
    return found - {""}


# ---- shapes


def _factors(tree: Tree) -> tuple[list[Tree], list[Tree]]:
    """Factors above and below the bar, without ones and signs."""
    if tree[0] == "neg":
        return _factors(tree[1])
    if tree[0] == "mul":
        above: list[Tree] = []
        below: list[Tree] = []
        for part in tree[1]:
            over, under = _factors(part)
            above, below = above + over, below + under
        return above, below
    if tree[0] == "pow" and tree[2] == ("num", Fraction(-1)):
        over, under = _factors(tree[1])
        return under, over
    return ([] if tree == _ONE else [tree]), []


def _is_mixed(tree: Tree) -> bool:
    """`2\\frac{3}{4}`, which is read as a sum."""
    if len(tree[1]) != 2:
        return False
    whole, part = tree[1][0], evaluate.exact(tree[1][1])
    return (
        whole[0] == "num" and whole[1].denominator == 1 and part is not None and 0 < part < 1 and tree[1][1][0] == "mul"
    )


def _is_power_and_one(tree: Tree) -> bool:
    one = [part for part in tree[1] if part in (_ONE, ("neg", _ONE))]
    powers = [
        part
        for part in tree[1]
        if part[0] == "pow" and part[1][0] == part[2][0] == "num" and part[2][1] >= _MINUS_ONE_FROM
    ]
    return len(one) == len(powers) == 1 and len(tree[1]) == 2


def _has_power(tree: Tree) -> bool:
    if tree[0] == "pow":
        return tree[2] != ("num", Fraction(-1)) and tree[2] != _ONE
    return (tree[0] == "fn" and tree[1] in ("factorial", "binom")) or any(_has_power(part) for part in children(tree))


def _is_scientific(above: list[Tree], below: list[Tree]) -> bool:
    if below or len(above) != 2 or above[0][0] != "num":
        return False
    ten = above[1]
    return ten[0] == "pow" and ten[1] == ("num", Fraction(10)) and evaluate.exact(ten[2]) is not None


def _is_power_of_ten(value: Fraction) -> bool:
    return value.denominator == 1 and set(str(value.numerator)[1:]) <= {"0"} and str(value.numerator)[0] == "1"


def _is_unit_power(tree: Tree, part: Tree) -> bool:
    return tree[0] == "pow" and part is tree[2] and part == ("num", Fraction(-1))


def _is_root_of_number(tree: Tree) -> bool:
    """`\\sqrt3`, two of which make one root."""
    return tree[0] == "root" and tree[1] == ("num", Fraction(2)) and tree[2][0] == "num"


def _is_square_of_number(tree: Tree) -> bool:
    """`3^2` in `3^2\\pi`."""
    return tree[0] == "pow" and tree[1][0] == "num" and tree[2] == ("num", Fraction(2))


def _writes_i(tree: Tree) -> bool:
    return tree == ("const", "i") or any(_writes_i(part) for part in children(tree))


def _has_like_terms(tree: Tree) -> bool:
    r"""Whether two terms come together in one: `\sqrt3 + 2\sqrt3`, `\sqrt{50} + \sqrt8`."""
    terms = tree[1]
    if (fewest := algebra.terms(tree)) is not None and fewest < len(terms):
        return True
    seen: list[list[str]] = []
    for term in terms:
        above, below = _factors(term)
        if below and any(part[0] == "add" for part in above):
            continue
        irrational = sorted(repr(part) for part in above if evaluate.exact(part) is None)
        if irrational and irrational in seen:
            return True
        seen.append(irrational)
    return False
