r"""Reads equations, inequalities and names: `x = 3` is 3 with a name, `x + y = 3` an equation, `1 < x \le 2` an interval."""

import re
from collections.abc import Callable

from pipeline.verify.reading.nodes import Equation, Group, Inequality, Interval, Named, Node, Union, as_set
from pipeline.verify.reading.numbers import parse_number
from pipeline.verify.reading.scan import find_top, peel
from pipeline.verify.reading.syntax import Tree, parse, symbols

Read = Callable[[str], Node]
_FUNCTION_OF = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc|log|ln)\s*\(?\s*(?:\\angle\s*)?(?:[A-Z]{1,3}|[a-z]|\\[a-z]+)\s*\)?"
)
r"""`\tan\theta`, which a problem may ask for."""
_ORDER = {"<": "<", ">": ">", r"\le": "<=", r"\ge": ">=", "<=": "<=", ">=": ">="}
_TOKENS = {
    "=",
    r"\approx",
    r"\in",
    r"\ne",
    r"\implies",
    r"\Rightarrow",
    r"\rightarrow",
    r"\to",
    r"\iff",
    r"\equiv",
    r"\sim",
    *_ORDER,
}
_DECORATION = re.compile(
    r"\\(?:angle|triangle|overline|vec|overrightarrow|hat|widehat|bar|text|mathbb|measuredangle|operatorname)(?![A-Za-z])|[{}\s|]"
)
_WORD = r"(?:[A-Za-z]+|\\[A-Za-z]+)(?:_(?:\w|\\?[A-Za-z]+\w*|\d+))?'*(?:(?:\^-1)?\([^()=<>]*\)(?:_\\?[A-Za-z]+)?)?"
_NAME = re.compile(rf"{_WORD}(?:[:/]{_WORD})?|\\frac{_WORD}{_WORD}|\({_WORD}(?:,{_WORD})*\)|{_WORD}(?:,{_WORD})+")
_OPERATORS = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc|log|ln|sqrt|cdot|pi|exp|infty|sum|int|lim|binom|pm|degree)(?![A-Za-z])"
)


def is_name(text: str) -> bool:
    r"""Whether `text` names a quantity (`x`, `a_{37}`, `f(x)`, `|AB|`, `\frac{NO}{BO}`, `V_1 : V_2`, `(p, q)`)."""
    if len(text) > 60 or _OPERATORS.search(text):
        return False
    bare = _DECORATION.sub("", text)
    return bool(_NAME.fullmatch(bare)) and bare not in ("e", "i")


def label_of(text: str) -> str:
    return re.sub(r"[\s{}|]", "", text)


def is_constant(text: str) -> bool:
    """Whether `text` has no variables."""
    try:
        return not symbols(parse(text))
    except (SyntaxError, RecursionError):
        return parse_number(text) is not None


def stated_value(text: str) -> str | None:
    r"""The value that `m + 10n = 34` or `\tan\theta = \frac34` states of what was asked for; None for anything else.
    `2x + 3 = 11` is an equation to solve, and `x + y = 5` may be a line."""
    found = find_top(text, _TOKENS)
    if not found or any(token != "=" for token, _, _ in found):
        return None
    left, right = text[: found[0][1]].strip(), text[found[-1][2] :].strip()
    if not right or is_name(left) or not is_constant(right):
        return None
    if _FUNCTION_OF.fullmatch(left):
        return right
    try:
        tree = parse(left)
    except (SyntaxError, RecursionError):
        return None
    terms = tree[1] if tree[0] == "add" else [tree]
    names = symbols(tree)
    return right if len(names) > 1 and names.isdisjoint("xyz") and all(map(_is_multiple, terms)) else None


def _is_multiple(term: Tree) -> bool:
    """Whether `term` is a name, or a product of names and numbers with a name in it."""
    if term[0] == "neg":
        return _is_multiple(term[1])
    factors = term[1] if term[0] == "mul" else [term]
    return {factor[0] for factor in factors} in ({"sym"}, {"num", "sym"})


def read_relation(text: str, read: Read) -> Node | None:
    """Reads `text` as a relation; None if it is not one."""
    found = find_top(text, _TOKENS)
    if not found:
        return None
    parts, last = [], 0
    for _, start, end in found:
        parts.append(text[last:start].strip())
        last = end
    parts.append(text[last:].strip())
    operators = [token for token, _, _ in found]
    for arrow in (r"\implies", r"\Rightarrow", r"\iff"):
        if arrow in operators:  # what was concluded
            at = len(operators) - 1 - operators[::-1].index(arrow)
            return read(text[found[at][2] :])
    approximate = next((i for i, token in enumerate(operators) if token in (r"\approx", r"\sim")), None)
    if approximate is not None:
        if approximate == 0 and (not parts[0] or is_name(parts[0])):
            value = read(text[found[0][2] :])
            return Named(label_of(parts[0]), value, parts[0], parts[1]) if parts[0] else value
        return read(text[: found[approximate][1]])
    if any(not part for part in parts):
        return read(parts[-1]) if operators == ["="] and parts[-1] else None
    if operators == [r"\in"]:
        return _membership(parts, read)
    if operators == [r"\ne"]:
        return _unequal(parts)
    if all(token in _ORDER for token in operators):
        return _inequality(parts, [_ORDER[token] for token in operators], read)
    if all(token == "=" for token in operators):
        return _equality(parts, read)
    return None


def _equality(parts: list[str], read: Read) -> Node:
    first, last = parts[0], parts[-1]
    if is_name(first):
        return Named(label_of(first), read(last), first, last)
    if is_name(last) and len(parts) == 2 and is_constant(first):
        return Named(label_of(last), read(first), last, first)
    if is_constant(first) and (is_constant(last) or len(parts) > 2):
        return read(last)
    if is_constant(last) and re.fullmatch(r"\\(?:lim|sum|int|prod|begin)(?![A-Za-z]).*", first, re.S):
        return read(last)
    return Equation(first, last)


def _membership(parts: list[str], read: Read) -> Node:
    value = as_set(read(parts[1]))
    if isinstance(value, Interval):
        value.label = label_of(parts[0])
    return value


def _unequal(parts: list[str]) -> Node:
    return Inequality("!=", parts[0], parts[1])


def _inequality(parts: list[str], operators: list[str], read: Read) -> Node | None:
    downward = [operator in (">", ">=") for operator in operators]
    if all(downward):
        parts, operators = parts[::-1], [operator.replace(">", "<") for operator in operators[::-1]]
    elif any(downward):
        return None
    if len(parts) == 2:
        return _two_sided(parts[0], parts[1], operators[0])
    if len(parts) == 3:
        low, middle, high = parts
        closed = (operators[0] == "<=", operators[1] == "<=")
        inner, is_absolute = _absolute(middle)
        if is_absolute and is_name(inner):
            return Union(
                [Interval(negated(high), negated(low), closed[1], closed[0]), Interval(low, high, closed[0], closed[1])]
            )
        if is_name(middle):
            return Interval(low, high, closed[0], closed[1], label_of(middle))
    return Group("tuple", [Inequality(op, a, b) for op, a, b in zip(operators, parts, parts[1:], strict=False)])  # type: ignore[arg-type]


def _two_sided(left: str, right: str, operator: str) -> Node:
    closed = operator == "<="
    inner, is_absolute = _absolute(left)
    if is_absolute and is_name(inner) and is_constant(right):
        return Interval(negated(right), right, closed, closed, label_of(inner))
    inner, is_absolute = _absolute(right)
    if is_absolute and is_name(inner) and is_constant(left):
        return Union([Interval("-\\infty", negated(left), False, closed), Interval(left, "\\infty", closed, False)])
    if is_name(left) and is_constant(right):
        return Interval("-\\infty", right, False, closed, label_of(left))
    if is_name(right) and is_constant(left):
        return Interval(left, "\\infty", closed, False, label_of(right))
    return Inequality("<=" if closed else "<", left, right)


def _absolute(text: str) -> tuple[str, bool]:
    text = text.strip()
    if len(text) > 2 and text[0] == text[-1] == "|" and "|" not in text[1:-1]:
        return text[1:-1], True
    return text, False


def negated(text: str) -> str:
    text = text.strip()
    if text.startswith("-") and not find_top(text[1:], set()) and re.fullmatch(r"-\s*[\w.\\{}]+", text):
        return text[1:]
    inner, bracket = peel(text)
    return f"-({inner if bracket == '()' else text})"
