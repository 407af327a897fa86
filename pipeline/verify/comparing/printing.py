r"""Prints a tree as the LaTeX that latex2sympy2 reads rightly: mixed numbers as sums, every argument in braces,
variables under letters that its grammar does not take for something else (`E` it refuses, `d x` it takes for a
differential, `i` is a letter to it and `I` the imaginary unit)."""

from fractions import Fraction

from pipeline.verify.reading.syntax import Tree, symbols

_AS_THEY_ARE = set("xyzabcmnpqrstuvwkABCMNXYZ")


def latex(tree: Tree) -> str:
    """Raises SyntaxError for what has no spelling there."""
    return _Printer(tree).whole


class _Printer:
    def __init__(self, tree: Tree) -> None:
        self.names = _rename(sorted(symbols(tree)))
        self.whole = self.show(tree)

    def show(self, tree: Tree) -> str:
        kind = tree[0]
        if kind == "num":
            return _number(tree[1])
        if kind == "sym":
            return self.names[tree[1]]
        if kind == "const":
            return {"pi": r"\pi ", "e": "e", "i": "I", "oo": r"\infty "}[tree[1]]
        if kind == "neg":
            return f"-{self.factor(tree[1])}"
        if kind == "add":
            return "+".join(self.term(part) for part in tree[1])
        if kind == "mul":
            return r" \cdot ".join(self.factor(part) for part in tree[1])
        if kind == "pow":
            if tree[2] == ("num", Fraction(-1)):
                return rf"\frac{{1}}{{{self.show(tree[1])}}}"
            return f"({self.show(tree[1])})^{{{self.show(tree[2])}}}"
        if kind == "root":
            if tree[1] == ("num", Fraction(2)):
                return rf"\sqrt{{{self.show(tree[2])}}}"
            return rf"\sqrt[{self.show(tree[1])}]{{{self.show(tree[2])}}}"
        return self.call(tree[1], tree[2])

    def term(self, tree: Tree) -> str:
        return f"({self.show(tree)})" if tree[0] in ("add", "neg") else self.show(tree)

    def factor(self, tree: Tree) -> str:
        plain = tree[0] in ("sym", "const", "root") or (tree[0] == "num" and tree[1] >= 0) or tree[0] == "pow"
        return self.show(tree) if plain else f"({self.show(tree)})"

    def call(self, name: str, arguments: list[Tree]) -> str:
        inside = [self.show(argument) for argument in arguments]
        if name.startswith("call:"):
            return f"{self.names[name]}({','.join(inside)})"
        if name == "factorial":
            return f"({inside[0]})!"
        if name == "abs":
            return rf"\left|{inside[0]}\right|"
        if name == "binom":
            return rf"\binom{{{inside[0]}}}{{{inside[1]}}}"
        if name == "log":
            return rf"\log_{{{inside[1]}}}({inside[0]})"
        if name == "mod":
            return rf"({inside[0]}) \mod ({inside[1]})"
        if name in ("floor", "ceil"):
            return rf"\l{name} {inside[0]} \r{name}" if name == "ceil" else rf"\lfloor {inside[0]} \rfloor"
        if name in ("gcd", "lcm", "max", "min"):
            return rf"\{name}({','.join(inside)})"
        if name in ("arccot", "arcsec", "arccsc", "coth"):
            raise SyntaxError(f"{name} has no spelling")
        return rf"\{name}({inside[0]})"


def _number(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    whole = (
        f"{abs(value.numerator)}"
        if value.denominator == 1
        else rf"\frac{{{abs(value.numerator)}}}{{{value.denominator}}}"
    )
    return f"({sign}{whole})" if sign else whole


def _rename(names: list[str]) -> dict[str, str]:
    """A letter for each symbol that latex2sympy2 would misread; the same symbol gets the same letter on both sides of
    a comparison, so the choice may depend on the name only."""
    out: dict[str, str] = {}
    for name in names:
        if name in _AS_THEY_ARE:
            out[name] = name
        elif name.startswith("call:"):
            out[name] = name.removeprefix("call:")
        else:
            out[name] = "v_{" + "".join(str(ord(character)) for character in name) + "}"
    return out
