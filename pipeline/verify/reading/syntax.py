r"""Reads a cleaned scalar into a small tree: the tree is evaluated (evaluate.py) to refute equality in microseconds, and
printed (printing.py) in the LaTeX that latex2sympy2 reads rightly.

A tree is a tuple: ("num", Fraction), ("sym", name), ("add", [..]), ("mul", [..]), ("pow", base, exponent),
("root", degree, x), ("fn", name, [args]), ("neg", x), ("const", "pi" | "e" | "i" | "oo").
What this grammar does not know (integrals, sums, limits, matrices) is a SyntaxError: those go to latex2sympy2 as they are.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any

Tree = tuple[Any, ...]

DEEPEST = 40
"""Nesting of a real answer stays below 10."""
MOST_TOKENS = 600

_LEX = re.compile(
    r"\s*(?:(?P<num>\d+(?:\.\d+)?|\.\d+)|(?P<cmd>\\[A-Za-z]+)|(?P<esc>\\.)|(?P<let>[A-Za-z])|(?P<op>\S))", re.S
)
_OF_SEVERAL = re.compile(r"\\(?:gcd|lcm|max|min)(?![A-Za-z])")
GREEK = {
    "alpha", "beta", "gamma", "delta", "epsilon", "varepsilon", "zeta", "eta", "theta", "vartheta", "iota", "kappa",
    "lambda", "mu", "nu", "xi", "rho", "sigma", "tau", "upsilon", "phi", "varphi", "chi", "psi", "omega", "Gamma",
    "Delta", "Theta", "Lambda", "Xi", "Sigma", "Upsilon", "Phi", "Psi", "Omega", "ell", "hbar",
}  # fmt: skip
ONE_ARGUMENT = {
    "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "arcsin", "arccos", "arctan", "arccot",
    "arcsec", "arccsc", "arsinh", "arcosh", "artanh", "exp", "ln", "floor", "ceil",
}  # fmt: skip
_CURRENCY = {r"\dollar", r"\euro", r"\pounds", r"\yen", r"\rupee"}
_CALLED = set("fghFGH")
"""Letters that mean a function where a parenthesis follows. `I(0)` is a value too: nobody writes a product with zero."""
_ENDS = {
    "+", "-", "/", ",", ")", "]", "}", "|", "", "=", "<", ">", r"\cdot", r"\}", r"\rfloor", r"\rceil", r"\bmod",
    r"\pmod", r"\%", "!", "^", "_", "'", ":",
}  # fmt: skip
"""Tokens that no factor starts with."""


@lru_cache(maxsize=128)
def parse(latex: str) -> Tree:
    """Raises SyntaxError where `latex` is not an expression of this grammar."""
    return _Parser(latex).whole()


class _Parser:
    def __init__(self, latex: str) -> None:
        if not _OF_SEVERAL.search(latex):  # `\gcd(830,450)` has two arguments
            latex = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", latex)
        self.tokens: list[str] = []
        for match in _LEX.finditer(latex):
            self.tokens.append(match.group().strip())
            if len(self.tokens) > MOST_TOKENS:
                raise SyntaxError("too long")
        if latex.strip() and sum(map(len, self.tokens)) != len(re.sub(r"\s+", "", latex)):
            raise SyntaxError("unreadable")
        self.at = 0
        self.depth = 0

    def peek(self, ahead: int = 0) -> str:
        index = self.at + ahead
        return self.tokens[index] if index < len(self.tokens) else ""

    def take(self, expected: str | None = None) -> str:
        token = self.peek()
        if not token or (expected is not None and token != expected):
            raise SyntaxError(f"expected {expected!r}, found {token!r}")
        self.at += 1
        return token

    def whole(self) -> Tree:
        tree = self.sum()
        if self.peek():
            raise SyntaxError(f"left over: {self.peek()!r}")
        return tree

    def sum(self) -> Tree:
        self.depth += 1
        if self.depth > DEEPEST:
            raise SyntaxError("nested too deeply")
        terms = [self.signed()]
        while self.peek() in ("+", "-"):
            minus = self.take() == "-"
            term = self.signed()  # `14 + -3i`
            terms.append(("neg", term) if minus else term)
        self.depth -= 1
        return terms[0] if len(terms) == 1 else ("add", terms)

    def signed(self) -> Tree:
        minus = False
        while self.peek() in ("+", "-"):
            minus ^= self.take() == "-"
        term = self.product()
        return ("neg", term) if minus else term

    def product(self) -> Tree:
        """Explicit products and quotients, left to right; juxtaposition binds tighter than `/`, except
        that in `1/2 x` the number over a number is taken as one coefficient."""
        left = self.juxtaposed()
        while True:
            operator = self.peek()
            if operator == r"\cdot":
                self.take()
                left = ("mul", [left, self.factor_signed()])
            elif operator in ("/", ":"):
                self.take()
                below = self.factor_signed(number_alone=left[0] == "num")
                left = ("mul", [left, ("pow", below, ("num", Fraction(-1)))])
                if self.starts_factor():
                    left = ("mul", [left, self.juxtaposed()])
            elif operator in (r"\bmod", r"\pmod"):
                self.take()
                left = ("fn", "mod", [left, self.juxtaposed()])
            else:
                return left

    def factor_signed(self, number_alone: bool = False) -> Tree:
        if self.peek() in ("+", "-"):
            minus = self.take() == "-"
            inner = self.factor_signed(number_alone)
            return ("neg", inner) if minus else inner
        if number_alone and self.peek()[:1].isdecimal():
            return self.power()
        return self.juxtaposed()

    def starts_factor(self) -> bool:
        token = self.peek()
        if token == "|":
            return False
        return token not in _ENDS and token != r"\degree"

    def juxtaposed(self) -> Tree:
        first_is_integer = self.peek().isdecimal()
        factors = [self.power()]
        if first_is_integer and self.peek() == r"\frac" and factors[0][0] == "num":
            mark = self.at
            part = self.power()
            if _is_proper_numeral(part):  # `2\frac{3}{4}` is a mixed number, not a product
                factors = [("add", [factors[0], part])]
            else:
                self.at = mark
        while self.starts_factor():
            if (self.peek()[0] == "." or self.peek()[0].isdecimal()) and factors[-1][0] == "num":
                raise SyntaxError("two numbers side by side")
            factors.append(self.power())
        return factors[0] if len(factors) == 1 else ("mul", factors)

    def power(self) -> Tree:
        base = self.postfixed(self.atom())
        if self.peek() == "^":
            self.take()
            base = self.postfixed(("pow", base, self.exponent()))
            if self.peek() == "^":
                raise SyntaxError("double superscript")
        return base

    def exponent(self) -> Tree:
        if self.peek() == "{":
            return self.group("{", "}")
        if self.peek() in ("+", "-"):
            minus = self.take() == "-"
            inner = self.exponent()
            return ("neg", inner) if minus else inner
        return self.atom()

    def postfixed(self, tree: Tree) -> Tree:
        while True:
            token = self.peek()
            if token == "!":
                self.take()
                tree = ("fn", "factorial", [tree])
            elif token == r"\%":
                self.take()
                tree = ("mul", [tree, ("num", Fraction(1, 100))])
            elif token == r"\degree":
                self.take()
                tree = ("mul", [tree, ("const", "pi"), ("num", Fraction(1, 180))])
            elif token in _CURRENCY:
                self.take()
            else:
                return tree

    def group(self, opening: str, closing: str) -> Tree:
        self.take(opening)
        tree = self.sum()
        self.take(closing)
        return tree

    def atom(self) -> Tree:
        token = self.peek()
        if token == "(":
            return self.group("(", ")")
        if token == "[":
            return self.group("[", "]")
        if token == "{":
            return self.group("{", "}")
        if token == "|":
            return ("fn", "abs", [self.group("|", "|")])
        if token[:1].isdecimal() or (token[:1] == "." and len(token) > 1):
            if len(token) > 400:
                raise SyntaxError("numeral too long")
            return ("num", Fraction(self.take()))
        if token.startswith("\\") and token[1:].isalpha():
            return self.command()
        if len(token) == 1 and token.isalpha():
            return self.letter()
        raise SyntaxError(f"unexpected {token!r}")

    def letter(self) -> Tree:
        name = self.take()
        if name == "e" and self.peek() != "_":
            return ("const", "e")
        if name == "i" and self.peek() != "_":
            return ("const", "i")
        name += self.marks()
        if self.peek() == "(" and (name[0] in _CALLED or (self.peek(1) == "0" and self.peek(2) == ")")):
            self.take("(")
            arguments = [self.sum()]
            while self.peek() == ",":
                self.take()
                arguments.append(self.sum())
            self.take(")")
            return ("fn", f"call:{name}", arguments)
        return ("sym", name)

    def marks(self) -> str:
        """Subscript and primes of a symbol, as part of its name."""
        marks = ""
        while self.peek() in ("_", "'"):
            if self.take() == "'":
                marks += "'"
                continue
            if self.peek() == "{":
                level, inside = 0, ""
                while True:
                    token = self.take()
                    level += (token == "{") - (token == "}")
                    inside += token
                    if level == 0:
                        break
                marks += "_" + inside[1:-1]
            else:
                marks += "_" + self.take()
        return marks

    def command(self) -> Tree:
        name = self.take()[1:]
        if name == "frac":
            above, below = self.group("{", "}"), self.group("{", "}")
            if above == ("sym", "d") and below[0] == "mul" and below[1][0] == above:
                raise SyntaxError("a derivative")
            return ("mul", [above, ("pow", below, ("num", Fraction(-1)))])
        if name == "binom":
            return ("fn", "binom", [self.group("{", "}"), self.group("{", "}")])
        if name == "sqrt":
            degree: Tree = ("num", Fraction(2))
            if self.peek() == "[":
                degree = self.group("[", "]")
            return ("root", degree, self.group("{", "}") if self.peek() == "{" else self.atom())
        if name == "pi":
            return ("const", "pi")
        if name == "infty":
            return ("const", "oo")
        if name in GREEK:
            return ("sym", f"\\{name}" + self.marks())
        if name in ("lfloor", "lceil"):
            tree = self.sum()
            self.take("\\r" + name[1:])
            return ("fn", "floor" if name == "lfloor" else "ceil", [tree])
        if name in ("gcd", "lcm", "max", "min"):
            return self.several(name)
        if name == "log" or name in ONE_ARGUMENT:
            return self.function(name)
        if name in ("angle", "triangle") or f"\\{name}" in _CURRENCY:
            return self.atom()
        raise SyntaxError(f"unknown command {name}")

    def several(self, name: str) -> Tree:
        closing = {"(": ")", r"\{": r"\}"}[self.take()] if self.peek() in ("(", r"\{") else ""
        if not closing:
            raise SyntaxError(f"{name} without arguments")
        arguments = [self.sum()]
        while self.peek() == ",":
            self.take()
            arguments.append(self.sum())
        self.take(closing)
        return ("fn", name, arguments)

    def function(self, name: str) -> Tree:
        power: Tree | None = None
        base: Tree | None = None
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                power = self.exponent()
            else:
                base = self.exponent()
        argument = self.argument()
        if power == ("neg", ("num", Fraction(1))) and name in ("sin", "cos", "tan", "sec", "csc", "cot"):
            name, power = "arc" + name, None
        if name == "log":
            tree: Tree = ("fn", "log", [argument, base or ("num", Fraction(10))])
        else:
            tree = ("fn", name, [argument])
        return ("pow", tree, power) if power is not None else tree

    def argument(self) -> Tree:
        """What a function without parentheses applies to: the factors up to the next sign or function."""
        if self.peek() in ("(", "{", "["):
            tree = self.atom()
            return ("pow", tree, self.exponent()) if self.peek() == "^" and self.take() else tree
        factors = [self.power()]
        while self.starts_factor() and self.peek() != "(" and self.peek()[1:] not in ONE_ARGUMENT | {"log"}:
            factors.append(self.power())
        if self.peek() == "/" and len(factors) == 1 and self.peek(1)[:1].isdecimal():
            self.take()
            factors.append(("pow", self.power(), ("num", Fraction(-1))))
        return factors[0] if len(factors) == 1 else ("mul", factors)


def _is_proper_numeral(tree: Tree) -> bool:
    return (
        tree[0] == "mul"
        and len(tree[1]) == 2
        and tree[1][0][0] == "num"
        and tree[1][1][0] == "pow"
        and tree[1][1][1][0] == "num"
        and tree[1][1][2] == ("num", Fraction(-1))
    )


def symbols(tree: Tree) -> set[str]:
    """Names of the variables (and applied functions) in `tree`."""
    kind = tree[0]
    if kind == "sym":
        return {tree[1]}
    found: set[str] = {tree[1]} if kind == "fn" and tree[1].startswith("call:") else set()
    for part in children(tree):
        found |= symbols(part)
    return found


def children(tree: Tree) -> list[Tree]:
    kind = tree[0]
    if kind in ("add", "mul"):
        return list(tree[1])
    if kind == "fn":
        return list(tree[2])
    if kind in ("pow", "root"):
        return [tree[1], tree[2]]
    return [tree[1]] if kind == "neg" else []
