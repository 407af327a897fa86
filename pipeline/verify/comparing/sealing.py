"""Stops sympy and latex2sympy2 from evaluating text as Python, for the life of the process.

latex2sympy2 keeps one (`\\variable{..}` with values given goes through `parse_expr`), and so does sympy (any string
handed to `sympify`). sympy itself also writes source code and runs it for the arithmetic of monomials
(sympy 1.14, polys/monomials.py:401); it is given plain functions instead, so that the audit hook (jail.py) may refuse
every compilation. `lambdify`, which writes code as well, is refused: sympy then fails to decide, and says so.
"""

from collections.abc import Callable
from typing import Any

Monomial = tuple[int, ...]


class UnsafeError(RuntimeError):
    """Something tried to evaluate text as Python."""


def refuse(*_: Any, **__: Any) -> Any:
    raise UnsafeError("text is never evaluated as Python here")


def seal(sympy: Any, latex2sympy2: Any) -> None:
    """`sympy` and `latex2sympy2` are the imported modules."""
    from sympy.parsing import sympy_parser
    from sympy.polys.monomials import MonomialOps
    from sympy.utilities import lambdify

    for name, make in _MONOMIAL_OPERATIONS.items():
        setattr(MonomialOps, name, _maker(make))
    _build_tables(sympy)
    latex2sympy2.parse_expr = refuse
    sympy_parser.parse_expr = refuse  # sympify imports this name at each call that is given a string
    sympy_parser.eval_expr = refuse
    sympy.parse_expr = refuse
    sympy.lambdify = lambdify.lambdify = refuse


def _maker(operation: Callable[..., Any]) -> Callable[[Any], Callable[..., Any]]:
    return lambda self: operation


def _build_tables(sympy: Any) -> None:
    """Runs the late imports of sympy and builds the tables that it makes from strings, before evaluation is closed."""
    from sympy.integrals.meijerint import _create_lookup_table

    x = sympy.Symbol("x")
    _create_lookup_table({})
    sympy.hyperexpand(sympy.hyper([1, 1], [2], x))
    sympy.integrate(sympy.exp(-(x**2)), (x, 0, sympy.oo))
    sympy.summation(1 / x**2, (x, 1, sympy.oo))
    sympy.simplify(sympy.sin(x) ** 2 + sympy.sqrt(x) / sympy.factorial(x)).equals(0)


def _divide(a: Monomial, b: Monomial) -> Monomial | None:
    quotient = tuple(x - y for x, y in zip(a, b, strict=True))
    return None if any(x < 0 for x in quotient) else quotient


_MONOMIAL_OPERATIONS: dict[str, Callable[..., Any]] = {
    "mul": lambda a, b: tuple(x + y for x, y in zip(a, b, strict=True)),
    "pow": lambda a, k: tuple(x * k for x in a),
    "mulpow": lambda a, b, k: tuple(x + y * k for x, y in zip(a, b, strict=True)),
    "ldiv": lambda a, b: tuple(x - y for x, y in zip(a, b, strict=True)),
    "div": _divide,
    "lcm": lambda a, b: tuple(map(max, a, b)),
    "gcd": lambda a, b: tuple(map(min, a, b)),
}
