r"""Proves equality of the common kinds of expressions in microseconds: polynomials, quotients of them, and sums of
radicals, over pi, e and i. What it cannot bring to a normal form is left to sympy.

A form is a sum: {monomial: coefficient}, a monomial being sorted (atom, exponent) pairs. Atoms are symbols, "pi", "e",
"i" and primes; a prime's exponent stays in [0, 1), so that `\sqrt{18}` is 3 * 2^(1/2). A quotient is a pair of forms.
"""

import math
from fractions import Fraction

from pipeline.verify.comparing import evaluate
from pipeline.verify.reading.syntax import Tree

MOST_TERMS = 300
MOST_POWER = 24
LARGEST_RADICAND = 10**12
_TRIED = 10_000
"""Trial division stops here."""

Atom = tuple[str, str | int]
Monomial = tuple[tuple[Atom, Fraction], ...]
Form = dict[Monomial, Fraction]
Quotient = tuple[Form, Form]

_ONE: Form = {(): Fraction(1)}
_I: Atom = ("constant", "i")


class NoFormError(ArithmeticError):
    """Outside of what this algebra covers."""


def equal(a: Tree, b: Tree) -> bool:
    """True where the two are proved equal; False says nothing."""
    try:
        (n, d), (m, e) = _quotient(a), _quotient(b)
        return _multiply(n, e) == _multiply(m, d)
    except (NoFormError, RecursionError):
        return False


def same_zeros(a: Tree, b: Tree) -> bool:
    """True where the numerators of the two are proved to be multiples of each other: `xy - 1` and `y - 1/x`. False says
    nothing."""
    try:
        (n, _), (m, _) = _quotient(a), _quotient(b)
    except (NoFormError, RecursionError):
        return False
    if not n or not m or set(n) != set(m):
        return False
    return len({value / m[monomial] for monomial, value in n.items()}) == 1


def terms(tree: Tree) -> int | None:
    """How many terms the numerator of `tree` has in its normal form; None for what this algebra does not cover."""
    try:
        return len(_quotient(tree)[0])
    except (NoFormError, RecursionError):
        return None


def _quotient(tree: Tree) -> Quotient:
    kind = tree[0]
    if kind == "num":
        return _constant(tree[1]), _ONE
    if kind == "sym":
        return _atom(("symbol", tree[1])), _ONE
    if kind == "const" and tree[1] != "oo":
        return _atom(("constant", tree[1])), _ONE
    if kind == "neg":
        n, d = _quotient(tree[1])
        return _multiply(n, {(): Fraction(-1)}), d
    if kind == "add":
        total: Quotient = ({}, _ONE)
        for part in tree[1]:
            n, d = _quotient(part)
            total = (_add(_multiply(total[0], d), _multiply(n, total[1])), _multiply(total[1], d))
        return total
    if kind == "mul":
        product: Quotient = (_ONE, _ONE)
        for part in tree[1]:
            n, d = _quotient(part)
            product = (_multiply(product[0], n), _multiply(product[1], d))
        return product
    if kind in ("pow", "root"):
        exponent = evaluate.exact(tree[2] if kind == "pow" else tree[1])
        if exponent is None or (kind == "root" and exponent <= 0):
            raise NoFormError("no rational exponent")
        return _power(_quotient(tree[1 if kind == "pow" else 2]), exponent if kind == "pow" else 1 / exponent)
    value = evaluate.exact(tree)
    if value is None:
        raise NoFormError(kind)
    return _constant(value), _ONE


def _power(base: Quotient, exponent: Fraction) -> Quotient:
    n, d = (_root(form, exponent.denominator) for form in base) if exponent.denominator > 1 else base
    times = abs(exponent.numerator)
    if times > MOST_POWER:
        raise NoFormError("too high a power")
    above, below = _ONE, _ONE
    for _ in range(times):
        above, below = _multiply(above, n), _multiply(below, d)
    if exponent < 0:
        above, below = below, above
    if not below:
        raise NoFormError("division by zero")
    return above, below


def _root(form: Form, degree: int) -> Form:
    r"""Of one term: a rational number, or one times a symbol. `\sqrt{x^2}` and `\sqrt{xy}` are left alone: what they
    are depends on signs."""
    if len(form) != 1 or degree > 12:
        raise NoFormError("root of a sum")
    ((monomial, value),) = form.items()
    if monomial and not (len(monomial) == 1 and monomial[0][0][0] == "symbol" and monomial[0][1] == 1 and value > 0):
        raise NoFormError("root of a product")
    sign: Form = _ONE
    if value < 0:
        if degree % 2 == 0 and degree != 2:
            raise NoFormError("complex root")
        sign = _atom(_I) if degree == 2 else {(): Fraction(-1)}
        value = -value
    # (a/b)^(1/n) = (a b^(n-1))^(1/n) / b
    radicand = value.numerator * value.denominator ** (degree - 1)
    atoms: dict[Atom, Fraction] = {
        ("prime", prime): Fraction(count, degree) for prime, count in _factors(radicand).items()
    }
    if monomial:
        atoms[monomial[0][0]] = Fraction(1, degree)
    rest, coefficient = _settle(atoms)
    return _multiply({rest: coefficient / value.denominator}, sign)


def _factors(number: int) -> dict[int, int]:
    if number > LARGEST_RADICAND:
        raise NoFormError("too large a radicand")
    found: dict[int, int] = {}
    for prime in range(2, min(_TRIED, math.isqrt(number)) + 1):
        while number % prime == 0:
            found[prime] = found.get(prime, 0) + 1
            number //= prime
        if prime * prime > number:
            break
    if number >= _TRIED**2:
        raise NoFormError("cannot be factored quickly")
    if number > 1:
        found[number] = found.get(number, 0) + 1
    return found


def _settle(atoms: dict[Atom, Fraction]) -> tuple[Monomial, Fraction]:
    """The monomial of these atoms, and the number that its whole powers of primes and of i come to."""
    coefficient = Fraction(1)
    kept = []
    for atom, exponent in atoms.items():
        if atom[0] == "prime":
            whole = math.floor(exponent)
            coefficient *= Fraction(atom[1]) ** whole
            exponent -= whole
        elif atom == _I:
            if exponent % 4 >= 2:
                coefficient = -coefficient
            exponent %= 2
        if exponent:
            kept.append((atom, exponent))
    return tuple(sorted(kept, key=lambda pair: (pair[0][0], str(pair[0][1])))), coefficient


def _constant(value: Fraction) -> Form:
    return {(): value} if value else {}


def _atom(atom: Atom) -> Form:
    return {((atom, Fraction(1)),): Fraction(1)}


def _add(a: Form, b: Form) -> Form:
    total = dict(a)
    for monomial, value in b.items():
        total[monomial] = total.get(monomial, Fraction(0)) + value
        if not total[monomial]:
            del total[monomial]
    return total


def _multiply(a: Form, b: Form) -> Form:
    if a == _ONE:
        return b
    if b == _ONE:
        return a
    if len(a) * len(b) > MOST_TERMS:
        raise NoFormError("too many terms")
    product: Form = {}
    for left, x in a.items():
        for right, y in b.items():
            atoms = dict(left)
            for atom, exponent in right:
                atoms[atom] = atoms.get(atom, Fraction(0)) + exponent
            monomial, factor = _settle(atoms)
            value = x * y * factor
            if max(value.numerator.bit_length(), value.denominator.bit_length()) > evaluate.MOST_BITS:
                raise NoFormError("too large")
            product = _add(product, {monomial: value})
    return product
