r"""Takes an answer apart: lists, tuples, sets, intervals, unions, matrices, equations, inequalities, names, units, words.

What latex2sympy2 cannot read (intervals, tuples, `\text`, `\pm`, degrees, money) never reaches it: it is taken apart
here, and only scalars are left.
"""

import re
from fractions import Fraction
from itertools import pairwise

from pipeline.verify.reading.nodes import (
    BaseNumber,
    Group,
    Interval,
    Matrix,
    Named,
    Node,
    Ratio,
    Scalar,
    Union,
    Word,
    as_set,
)
from pipeline.verify.reading.numbers import Number, parse_number
from pipeline.verify.reading.relations import read_relation
from pipeline.verify.reading.scan import peel, split_top
from pipeline.verify.reading.units import strip_units

DEEPEST = 12
_JOINERS = re.compile(r"\\text\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}|(?<![A-Za-z\\])(?:and|or|AND|OR)(?![a-z])(?=.)")
_ENVIRONMENT = re.compile(
    r"[(\[]?\s*\\begin\s*\{((?:small|[pbBv])?matrix|array)\}\s*(?:\{[lcr|\s]*\})?(.*?)\\end\s*\{\1\}\s*[)\]]?", re.S
)
_BASE = re.compile(
    r"(-?)(?:\\text\{)?([0-9A-F]+(?:\.[0-9A-F]+)?)\}?\s*_\s*(?:\{\s*(?:\\text\{)?([0-9]{1,2}|two|three|eight|ten)\}?\s*\}|([2-9]))"
)
_RATIO = re.compile(r"\s*:\s*")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_CHOICE = re.compile(r"\(\s*([A-Z])\s*\)\s*[.:]?\s*(\S.*)", re.S)
_RANGE_END = re.compile(r"\s*,\s*[A-Za-z]\s*\\in\s*\\mathbb\{[ZN]\}(?:\s*[\^_]\s*\S+)?$")
"""`k \\in \\mathbb{Z}` after a family of solutions says what k is."""
_CASES = re.compile(r"\\begin\s*\{cases\}([^&]*)\\end\s*\{cases\}", re.S)
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_LETTERS = re.compile(r"[A-Za-z][A-Za-z\s'-]*")
_LONG_WORD = re.compile(r"[A-Za-z]{3}")
"""With a hyphen in it, what has no word of three letters is a difference: `x-y`."""
_ANOTHER_CHOICE = re.compile(r"\(\s*[A-Z]\s*\)|(?:or|and)\b")
_NUMBERS_IN_WORDS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty",
)  # fmt: skip
_NUMBER_WORDS = {word: value for value, word in enumerate(_NUMBERS_IN_WORDS)}
_SETS = {r"\mathbb{R}": "R", r"\mathbb{Z}": "Z", r"\mathbb{Q}": "Q", r"\mathbb{N}": "N", r"\mathbb{C}": "C"}
_REAL_LINE = Interval("-\\infty", "\\infty", False, False)


def readings(cleaned: str, several: bool = False) -> list[Node]:
    """Every way to read a cleaned answer, the likeliest first. There is more than one where a comma may be decimal,
    group thousands or separate, and where a choice letter comes with its value."""
    first = read(cleaned)
    found = [first]
    if several and isinstance(first, Group):
        first.free = True
    if _DECIMAL_COMMA.fullmatch(cleaned) and isinstance(first, Group):
        found.append(_scalar(cleaned.replace(",", ".")))
    elif isinstance(first, Scalar) and "," in cleaned and first.number is not None:
        found.append(Group("list", [_scalar(part) for part in cleaned.split(",")]))
        if re.fullmatch(r"-?\d{1,3},\d{3}", cleaned):
            found.append(_scalar(cleaned.replace(",", ".")))
    elif isinstance(first, Group) and re.fullmatch(r"-?\d+,\d+\D.*", cleaned) and len(first.items) == 2:
        found.append(read(cleaned.replace(",", ".", 1)))
    match = _CHOICE.fullmatch(_TEXT.sub(r"\1", cleaned))
    if match and not _ANOTHER_CHOICE.search(match.group(2)):
        found += [Word(match.group(1)), read(match.group(2).strip())]
    return found


def read(text: str, depth: int = 0) -> Node:
    """The likeliest reading of cleaned `text`."""
    text = text.strip()
    number = parse_number(text)
    if number is not None:
        return Scalar(text, number)
    if depth > DEEPEST or not text:
        return Word(text)
    if "," in text:  # `1,000 m`, which is no list
        stripped, percent, unit = strip_units(text)
        if stripped != text and (number := parse_number(stripped)) is not None:
            return Scalar(stripped, number, percent, unit)
    if "\\mathbb" in text and "," in text:
        text = _RANGE_END.sub("", text)
    if "\\begin" in text:
        match = _ENVIRONMENT.fullmatch(text)
        if match and "\\begin" not in match.group(2) and match.group(1) != "vmatrix":
            return _matrix(match.group(2), depth)
        if system := _CASES.fullmatch(text):  # equations that hold together
            text = ", ".join(row.strip(" ,") for row in system.group(1).split("\\\\") if row.strip(" ,"))
    joined = _JOINERS.sub(" , ", text) if "and" in text.lower() or "or" in text.lower() else text
    if _is_words(text):
        return _words(text, joined)
    if ("," in joined or ";" in joined) and (parts := _split_list(joined)) is not None:
        return _list(parts, joined is not text and joined != text, depth)
    return _single(joined if joined == text else text, depth)


def _split_list(text: str) -> list[str] | None:
    separator = ";" if len(split_top(text, ";")) > 1 else ","
    parts = [part.strip() for part in split_top(text, separator)]
    parts = [part for part in parts if part]
    return parts if len(parts) > 1 else None


def _list(parts: list[str], free: bool, depth: int) -> Node:
    nodes = [read(part, depth + 1) for part in parts]
    if all(isinstance(node, Named) for node in nodes) is False and isinstance(nodes[0], Named):
        nodes[0] = (
            nodes[0].value if not isinstance(nodes[0].value, Group) or nodes[0].value.kind == "tuple" else nodes[0]
        )
        free = True
    items: list[Node] = []
    for node in nodes:
        if isinstance(node, Group) and node.kind == "list" and node.free and len(nodes) > 1:
            items += node.items
            free = True
        elif isinstance(node, Group) and node.kind == "list" and all(isinstance(item, Named) for item in node.items):
            items.append(Group("tuple", node.items))  # `p=5, q=2; p=7, q=2`
        else:
            items.append(node)
    return Group("list", items, free)


def _single(text: str, depth: int) -> Node:
    inner, bracket = peel(text)
    if bracket == "\\{\\}":
        return _set(inner, depth)
    if bracket in ("()", "[)", "(]", "[]", "{}"):
        found = _bracketed(inner, bracket, depth)
        if found is not None:
            return found
    if "\\cup" in text:
        parts = split_top(text, "\\cup")
        if len(parts) > 1:
            return Union([as_set(read(part, depth + 1)) for part in parts])
    if "\\setminus" in text or text.startswith("\\mathbb"):
        return _domain(text, depth)
    relation = read_relation(text, lambda part: read(part, depth + 1))
    if relation is not None:
        return relation
    if "\\pm" in text or "\\mp" in text:
        signs = [_choose_sign(text, True), _choose_sign(text, False)]
        return Group("list", [read(sign, depth + 1) for sign in signs], free=True)
    return _leaf(text)


def _choose_sign(text: str, upper: bool) -> str:
    return text.replace("\\pm", "+" if upper else "-").replace("\\mp", "-" if upper else "+")


def _bracketed(inner: str, bracket: str, depth: int) -> Node | None:
    parts = _split_list(inner)
    if parts is None:
        if bracket in ("()", "{}"):
            return read(inner, depth + 1)
        return None
    if bracket == "{}":
        return Group("list", [read(part, depth + 1) for part in parts])
    if len(parts) == 2 and bracket != "()":
        return Interval(parts[0], parts[1], bracket[0] == "[", bracket[1] == "]")
    return Group("tuple", [read(part, depth + 1) for part in parts])


def _set(inner: str, depth: int) -> Node:
    for bar in ("|", ":"):
        parts = split_top(inner, bar)
        if len(parts) == 2 and re.fullmatch(r"\s*[A-Za-z](?:\s*\\in\s*\\mathbb\{R\})?\s*", parts[0]):
            return read(parts[1], depth + 1)
    listed = _split_list(_JOINERS.sub(" , ", inner)) or [inner]
    items = [read(part, depth + 1) for part in listed]
    flat: list[Node] = []
    for item in items:
        flat += item.items if isinstance(item, Group) and item.kind == "list" and item.free else [item]
    return Group("set", flat, free=True)


def _domain(text: str, depth: int) -> Node:
    r"""`\mathbb{R}`, and `\mathbb{R} \setminus \{0, 1\}` as the union of the intervals that are left."""
    parts = split_top(text, "\\setminus")
    if parts[0].strip() == r"\mathbb{R}":
        if len(parts) == 1:
            return _REAL_LINE
        holes = read(parts[1], depth + 1)
        points = holes.items if isinstance(holes, Group) else [holes]
        return without_points([point.text for point in points if isinstance(point, Scalar)])
    return Word("".join(_SETS.get(part.strip(), part.strip()) for part in parts))


def without_points(points: list[str]) -> Node:
    """The real line without these points."""
    numbers = {point: parse_number(point) for point in points}
    if any(number is None for number in numbers.values()):
        points = sorted(points)
    else:
        points = sorted(points, key=lambda point: numbers[point].value)  # type: ignore[union-attr]
    ends = ["-\\infty", *points, "\\infty"]
    return Union([Interval(low, high, False, False) for low, high in pairwise(ends)])


def _matrix(body: str, depth: int) -> Node:
    rows = [row for row in re.split(r"\\\\|\\cr\b", body) if row.replace("\\hline", "").strip()]
    return Matrix([[read(cell, depth + 1) for cell in row.replace("\\hline", "").split("&")] for row in rows])


def _is_words(text: str) -> bool:
    r"""Whether the whole is set as text, or is plain words."""
    outside = _TEXT.sub("", text) if "\\text" in text else text
    if outside is not text and not outside.strip(" .,()"):
        return True
    return " " in text and _are_letters(text)


def _are_letters(text: str) -> bool:
    return len(text) > 2 and bool(_LETTERS.fullmatch(text)) and ("-" not in text or bool(_LONG_WORD.search(text)))


def _words(text: str, joined: str) -> Node:
    plain = _TEXT.sub(r"\1", joined)
    if "," in plain:
        parts = [part.strip() for part in plain.split(",") if part.strip(" ()")]
        if len(parts) > 1 and (all(len(part.split()) <= 3 for part in parts)):
            return Group("list", [_word(part) for part in parts], free=True)
    return _word(_TEXT.sub(r"\1", text))


def _word(text: str) -> Node:
    text = text.strip(" .,;:\"'")
    bare = text[1:-1].strip() if text.startswith("(") and text.endswith(")") else text
    if bare.lower() in _NUMBER_WORDS:
        return Scalar(bare, Number(Fraction(_NUMBER_WORDS[bare.lower()])))
    number = parse_number(bare)
    if number is not None:
        return Scalar(bare, number)
    stripped, percent, unit = strip_units(bare)
    if stripped != bare and (number := parse_number(stripped)) is not None:
        return Scalar(stripped, number, percent, unit)
    return Word(bare)


def _leaf(text: str) -> Node:
    stripped, percent, unit = strip_units(text)
    if stripped != text:
        number = parse_number(stripped)
        if number is not None:
            return Scalar(stripped, number, percent, unit)
        inner, bracket = peel(stripped)
        if bracket == "()" or (":" in stripped):
            node = read(inner if bracket == "()" else stripped, DEEPEST - 1)
            if isinstance(node, Ratio):
                node.unit = unit
            return node
        return _scalar(stripped, percent, unit)
    return _scalar(text)


def _scalar(text: str, percent: bool = False, unit: str = "") -> Node:
    text = text.strip()
    match = _BASE.fullmatch(text)
    if match:
        base = {"two": 2, "three": 3, "eight": 8, "ten": 10}.get(match.group(3) or "", 0) or int(
            match.group(3) or match.group(4)
        )
        digits = match.group(2)
        if 2 <= base <= 36 and "." not in digits and all(int(digit, 36) < base for digit in digits):
            return BaseNumber(match.group(1) + digits, base)
    parts = split_top(text, ":") if ":" in text else [text]
    if len(parts) > 1 and all(part.strip() for part in parts):
        return Ratio([part.strip() for part in parts])
    number = parse_number(text)
    if number is None and _are_letters(text):
        return _word(text)
    return Scalar(text, number, percent, unit)
