r"""Takes an answer apart: lists, tuples, sets, intervals, unions, matrices, equations, inequalities, names, units, words.

What latex2sympy2 cannot read (intervals, tuples, `\text`, `\pm`, degrees, money) never reaches it: it is taken apart
here, and only scalars are left.
"""

import re
from fractions import Fraction
from itertools import pairwise, product
from typing import Literal

from pipeline.verify.reading.nodes import (
    BaseNumber,
    Difference,
    Group,
    Intersection,
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
from pipeline.verify.reading.relations import is_name, label_of, read_relation
from pipeline.verify.reading.scan import peel, split_top
from pipeline.verify.reading.units import strip_units
from pipeline.verify.reading.words import (
    ANOTHER_CHOICE,
    CHOICE,
    LABEL,
    NO_SOLUTION,
    REALS,
    number_in_words,
    place_in_words,
    qualified,
)

DEEPEST = 12
_JOINERS = re.compile(
    r"\\text\s*\{\s*,?\s*(and|or|i\.?e\.?|that is|equivalently)\s*,?\s*\}|(?<![A-Za-z\\])(and|or|AND|OR)(?![a-z])(?=.)"
)
_ENVIRONMENT = re.compile(
    r"[(\[]?\s*\\begin\s*\{((?:small|[pbBv])?matrix|array)\}\s*(?:\{[lcr|\s]*\})?(.*?)\\end\s*\{\1\}\s*[)\]]?", re.S
)
_MAY_JOIN = re.compile(r"and|or|AND|OR|\\text")
_BASES = {
    "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "twelve": 12, "sixteen": 16,
}  # fmt: skip
_BASE_NAME = r"(?:\\text\s*\{\s*)?\(?\s*([0-9]{1,2}|" + "|".join(_BASES) + r")\s*\)?\s*\}?"
_BASE_DIGITS = r"(-?)(?:\\text\s*\{|\\overline\s*\{|\()?\s*([0-9A-F]+(?:\.[0-9A-F]+)?)\s*[)}]?"
_BASE = re.compile(rf"{_BASE_DIGITS}\s*_\s*(?:\{{\s*{_BASE_NAME}\s*\}}|([2-9]))")
_BASE_IN_WORDS = re.compile(rf"{_BASE_DIGITS}\s*\(?\s*,?\s*(?:in\s+)?base[\s-]*{_BASE_NAME}\s*\)?")
_PREFIXED = re.compile(r"(-?)0(?:b([01]+)|o([0-7]+)|x([0-9A-Fa-f]+))")
"""`0b1011`, as programs write it."""
_ANGLE = re.compile(
    r"(-?)(\d+)\s*\\degree\s*(\d+(?:\.\d+)?)\s*(?:\^\s*\{?\s*)?'\s*\}?(?:\s*(\d+(?:\.\d+)?)\s*(?:\^\s*\{?\s*)?(?:''|\")\s*\}?)?"
)
"""Degrees, minutes and seconds."""
_NAMED_ANGLE = re.compile(r"\\angle\s*\{?\s*([A-Z]{3})\s*\}?")
"""`\\angle ABC` is `\\angle CBA`, and not `\\angle ACB`."""
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_GLOSS = re.compile(r"(.*\S)\s*\(\s*(or|i\.?e\.?,?|that is,?|=|\\approx|about|approximately)?\s*(.*\S)\s*\)", re.S)
"""`12 (or 24/2)`, `6 (six)`."""
_ARRAY = re.compile(r"(?:[A-Za-z.]*(?:[Mm]atrix|array)\s*\(\s*)?(\[\s*\[.*\]\s*\]|\{\s*\{.*\}\s*\})\s*\)?", re.S)
_MINUS_POINTS = re.compile(r"(\\mathbb\{R\}|[)\]]|\\\})\s*-\s*(?=\\\{)")
_CASES = re.compile(r"\\begin\s*\{cases\}([^&]*)\\end\s*\{cases\}", re.S)
_DECIMAL_COMMA = re.compile(r"-?\d+,\d+")
_POINTS_AND_COMMA = re.compile(r"-?\d{1,3}(?:\.\d{3})+,\d+")
_LETTERS = re.compile(r"[A-Za-z][A-Za-z\s'-]*")
_LONG_WORD = re.compile(r"[A-Za-z]{3}")
"""With a hyphen in it, what has no word of three letters is a difference: `x-y`."""
_SIGN = re.compile(r"\\(?:pm|mp)(?![A-Za-z])")
_AGREEING = re.compile(r"\s*(?:yes|no)\s*,\s*(?!yes|no)[a-z]", re.I)
_JOINED_UNITS = re.compile(r"\\text\s*\{([^{}]*?\S)\s*,?\s+(and|or)\s*\}(?=\s*[-\d\\$])")
r"""`7 \text{ goats and } 4`."""
_MODULO = re.compile(
    r"(?:(?P<left>[^=]*?)\s*\\equiv\s*)?(?P<residue>[^=]+?)\s*\(?\s*(?:\\[pb]mod|\\text\s*\{\s*mod\s*\}|(?<![A-Za-z])mod)\s*\{?\s*(?P<modulus>[^{}()=]+?)\s*\}?\s*\)?"
)
r"""`x \equiv 3 \pmod 7`, `3 \pmod 7`."""
_SETS = {r"\mathbb{R}": "R", r"\mathbb{Z}": "Z", r"\mathbb{Q}": "Q", r"\mathbb{N}": "N", r"\mathbb{C}": "C"}
_REAL_LINE = Interval("-\\infty", "\\infty", False, False)


def readings(cleaned: str, several: bool = False) -> list[Node]:
    """Every way to read a cleaned answer, the likeliest first. There is more than one where a comma may be decimal,
    group thousands or separate, and where a choice letter comes with its value."""
    first = read(cleaned)
    found = [first]
    if several and isinstance(first, Group):
        first.free = True
    if "," in cleaned:
        found += _with_other_commas(cleaned, first)
    if isinstance(first, Named) and ":" in cleaned and len(first.left) == 1 and "=" not in cleaned:
        found.append(Ratio([part.strip() for part in cleaned.split(":")]))
    if cleaned.endswith(")") and (gloss := _gloss(cleaned)) is not None:
        found.append(gloss)
    letter, value = choice(cleaned)
    if letter:
        found.append(Word(letter))
        if value:
            found.append(read(value))
    return found


def _with_other_commas(cleaned: str, first: Node) -> list[Node]:
    if _DECIMAL_COMMA.fullmatch(cleaned) and isinstance(first, Group):
        return [_scalar(cleaned.replace(",", "."))]
    if _POINTS_AND_COMMA.fullmatch(cleaned):
        return [_scalar(cleaned.replace(".", "").replace(",", "."))]
    if isinstance(first, Scalar) and first.number is not None:
        listed = Group("list", [_scalar(part) for part in cleaned.split(",")])
        return [listed, _scalar(cleaned.replace(",", "."))] if re.match(r"-?0,", cleaned) else [listed]
    if isinstance(first, Group) and re.fullmatch(r"-?\d+,\d+\D.*", cleaned) and len(first.items) == 2:
        return [read(cleaned.replace(",", ".", 1))]
    if re.fullmatch(r"-?\d+,\d*\(\d+\)", cleaned):  # `0,(3)`
        return [_scalar(cleaned.replace(",", "."))]
    return []


def choice(cleaned: str) -> tuple[str, str]:
    """(the letter, the text beside it) of `(B) 12`, `B)`, `C. 12`; empty strings for everything else."""
    plain = _TEXT.sub(r"\1", cleaned)
    match = CHOICE.match(plain)
    if match is None or match.end() != len(plain) or (match[4] and ANOTHER_CHOICE.search(match[4])):
        return "", ""
    return match[1] or match[2] or match[3], (match[4] or "").strip()


def _gloss(cleaned: str) -> Node | None:
    r"""`6 (or six)` and `12 (twelve)`: two forms, which hold only if both do. `\frac13 (\approx 0.33)`: the first."""
    match = _GLOSS.fullmatch(_TEXT.sub(r" \1 ", cleaned))
    if match is None:
        return None
    main, cue, other = match[1].strip(), (match[2] or "").strip(), match[3].strip()
    if cue in ("\\approx", "about", "approximately"):
        return read(main)
    if not cue and number_in_words(other) is None and parse_number(other) is None:
        return None
    return Group("list", [read(main), read(other)], free=True, joined="or")


def read(text: str, depth: int = 0) -> Node:
    """The likeliest reading of cleaned `text`."""
    text = text.strip()
    number = parse_number(text)
    if number is not None:
        return Scalar(text, number)
    if depth > DEEPEST or not text:
        return Word("")
    if "," in text:  # `1,000 m`, which is no list
        stripped, percent, unit = strip_units(text)
        if stripped != text and (number := parse_number(stripped)) is not None:
            return Scalar(stripped, number, percent, unit)
    if "\\begin" in text:
        match = _ENVIRONMENT.fullmatch(text)
        if match and "\\begin" not in match.group(2) and match.group(1) != "vmatrix":
            return _matrix(match.group(2), depth)
        if system := _CASES.fullmatch(text):  # equations that hold together
            text = ", ".join(row.strip(" ,") for row in system.group(1).split("\\\\") if row.strip(" ,"))
    if "all real" in text and (reals := _reals(_TEXT.sub(r" \1 ", text))) is not None:
        return reals
    if "\\text" in text and (" and" in text or " or" in text):
        text = _JOINED_UNITS.sub(r"\\text{\1} \\text{ \2 } ", text)
    joined = _JOINERS.sub(" , ", text) if _MAY_JOIN.search(text) else text
    if _is_words(text):
        return _words(text, joined)
    if ("," in joined or ";" in joined) and (parts := _split_list(joined)) is not None:
        return _list(parts, _joiner(text) if joined != text else None, depth)
    return _single(joined if joined == text else text, depth)


def _joiner(text: str) -> Literal["", "and", "or"]:
    """The one word that joins the parts of `text`, or the empty string where it is not always the same."""
    found = {"and" if "and" in match.group().lower() else "or" for match in _JOINERS.finditer(text)}
    return "" if len(found) != 1 else "and" if "and" in found else "or"


def _split_list(text: str) -> list[str] | None:
    separator = ";" if len(split_top(text, ";")) > 1 else ","
    parts = [part.strip() for part in split_top(text, separator)]
    parts = [part for part in parts if part]
    return parts if len(parts) > 1 else None


def _list(parts: list[str], joiner: Literal["", "and", "or"] | None, depth: int) -> Node:
    """`joiner`: None where commas alone separate the parts."""
    free = joiner is not None
    nodes = [read(_without_domain(part), depth + 1) for part in parts]
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
    return Group("list", items, free, joiner or "")


def _without_domain(part: str) -> str:
    r"""Without `for all x \in \mathbb{Z}`, which each part of a list may repeat."""
    found = qualified(part)
    return found.body if found.domain else part


def _single(text: str, depth: int) -> Node:
    if ":" in text and (named := _labelled(text, depth)) is not None:
        return named
    if text.replace(" ", "")[:2] in ("[[", "{{") or "([" in text:
        array = _array(text, depth)
        if array is not None:
            return array
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
    if "\\cap" in text and len(parts := split_top(text, "\\cap")) > 1:
        return Intersection([as_set(read(part, depth + 1)) for part in parts])
    if "\\{" in text and "-" in text:
        text = _MINUS_POINTS.sub(r"\1\\setminus ", text)
    if "\\setminus" in text or text.startswith("\\mathbb"):
        return _domain(text, depth)
    if text in ("\\emptyset", "{}"):
        return Group("set", [], free=True)
    if "mod" in text and (congruence := _congruence(text, depth)) is not None:
        return congruence
    relation = read_relation(text, lambda part: read(part, depth + 1))
    if relation is not None:
        return relation
    if _SIGN.search(text):
        signs = [_choose_sign(text, True), _choose_sign(text, False)]
        return Group("list", [read(sign, depth + 1) for sign in signs], free=True)
    return _leaf(text)


def _congruence(text: str, depth: int) -> Node | None:
    r"""`x \equiv 3 \pmod 7`, whose modulus counts; of `7^{100} \equiv 1 \pmod 5`, the residue is the value."""
    match = _MODULO.fullmatch(text)
    if match is None or parse_number(match["residue"]) is None:
        return None
    left, residue = match["left"], read(match["residue"], depth + 1)
    pair = Group("tuple", [Word("mod"), residue, read(match["modulus"], depth + 1)])
    if left is None:
        return pair if "\\pmod" in text else None
    if is_name(left):
        return Named(label_of(left), pair, left, match["residue"])
    return residue


def _labelled(text: str, depth: int) -> Node | None:
    """`Minimum: 1`, `x: 2`. `x:y` is a ratio."""
    match = LABEL.fullmatch(text)
    if match is None:
        return None
    label, value = match[1].strip(), match[2].strip()
    if not value or (len(label) < 3 and (len(label) > 1 or parse_number(value) is None)):
        return None
    if not any(character.isdigit() or character == "\\" for character in value):
        return None
    return Named(label_of(label).casefold() if len(label) > 1 else label, read(value, depth + 1), label, value)


def _reals(words: str) -> Node | None:
    match = REALS.fullmatch(" ".join(words.split()))
    if match is None:
        return None
    if not match[1]:
        return _REAL_LINE
    holes = read(match[1], DEEPEST - 2)
    points = holes.items if isinstance(holes, Group) else [holes]
    return without_points([point.text for point in points if isinstance(point, Scalar)])


def _array(text: str, depth: int) -> Node | None:
    """`[[1, 2], [3, 4]]`, as programs write a matrix."""
    match = _ARRAY.fullmatch(text)
    inner, bracket = peel(match[1]) if match else ("", "")
    rows = [peel(part.strip()) for part in split_top(inner, ",")]
    if bracket not in ("[]", "{}") or any(kind != bracket for _, kind in rows) or (bracket == "{}" and len(rows) < 2):
        return None
    return Matrix([[read(cell, depth + 1) for cell in split_top(row, ",")] for row, _ in rows])


def _choose_sign(text: str, upper: bool) -> str:
    return _SIGN.sub(lambda match: "+" if (match.group() == "\\pm") is upper else "-", text)


def _bracketed(inner: str, bracket: str, depth: int) -> Node | None:
    parts = _split_list(inner)
    if parts is None:
        if bracket in ("()", "{}"):
            return read(inner, depth + 1)
        return None
    if bracket == "{}":
        return Group("list", [read(part, depth + 1) for part in parts])
    if bracket == "()" and _SIGN.search(inner):
        return _tuples_of_signs(parts, depth)
    if len(parts) == 2 and bracket != "()":
        return Interval(parts[0], parts[1], bracket[0] == "[", bracket[1] == "]")
    return Group("tuple", [read(part, depth + 1) for part in parts])


def _tuples_of_signs(parts: list[str], depth: int) -> Node:
    r"""`(\pm 1, 2)` is two points and `(\pm 1, \pm 1)` four; with a `\mp`, the signs go together."""
    signed = [part for part in parts if _SIGN.search(part)]
    together = any("\\mp" in part for part in signed) or len(signed) > 4
    points: list[Node] = []
    for choices in product((True, False), repeat=1 if together else len(signed)):
        signs = iter(choices * len(signed) if together else choices)
        chosen = [_choose_sign(part, next(signs)) if part in signed else part for part in parts]
        points.append(Group("tuple", [read(part, depth + 1) for part in chosen]))
    return Group("list", points, free=True)


def _set(inner: str, depth: int) -> Node:
    if not inner:
        return Group("set", [], free=True)
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
    if len(parts) == 2:
        base, removed = as_set(read(parts[0], depth + 1)), as_set(read(parts[1], depth + 1))
        if base == _REAL_LINE:
            points = removed.items if isinstance(removed, Group) else [removed]
            if all(isinstance(point, Scalar) for point in points):
                return without_points([point.text for point in points if isinstance(point, Scalar)])
        return Difference(base, removed)
    if parts[0].strip() == r"\mathbb{R}":
        return _REAL_LINE
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
    plain = _TEXT.sub(r"\1", text)
    if NO_SOLUTION.fullmatch(plain.strip(" .,")):
        return Group("set", [], free=True)
    if (number := number_in_words(plain.strip(" .,"))) is not None:
        return Scalar(plain, Number(Fraction(number)))
    plain = _TEXT.sub(r"\1", joined)
    if "," in plain and not _AGREEING.match(plain):
        parts = [part.strip() for part in plain.split(",") if part.strip(" ()")]
        if len(parts) > 1 and (all(len(part.split()) <= 3 for part in parts)):
            return Group("list", [_word(part) for part in parts], free=True)
    return _word(_TEXT.sub(r"\1", text))


def _word(text: str) -> Node:
    text = text.strip(" .,;:\"'")
    bare = text[1:-1].strip() if text.startswith("(") and text.endswith(")") else text
    if NO_SOLUTION.fullmatch(bare):
        return Group("set", [], free=True)
    if (counted := number_in_words(bare) or place_in_words(bare)) is not None:
        return Scalar(bare, Number(Fraction(counted)))
    if ":" in bare and (named := _labelled(bare, DEEPEST - 1)) is not None:
        return named
    number = parse_number(bare)
    if number is not None:
        return Scalar(bare, number)
    if "base" in bare and (match := _BASE_IN_WORDS.fullmatch(bare)):
        return _in_base(match[1], match[2], match[3]) or Word(bare)
    if bare[:1].isdecimal():
        leaf = _leaf(bare)
        if isinstance(leaf, Ratio) or (isinstance(leaf, Scalar) and leaf.number is not None):
            return leaf
    if bare.casefold() in ("infinitely many", "infinite", "infinity"):
        return Scalar("\\infty")
    return Word(bare)


def _leaf(text: str) -> Node:
    if (
        (text[:1].isdecimal() or text.startswith("the "))
        and text[-1:].isalpha()
        and (place := place_in_words(text)) is not None
    ):
        return Scalar(text, Number(Fraction(place)))
    if "\\degree" in text and "'" in text and (match := _ANGLE.fullmatch(text)):
        value = int(match[2]) + Fraction(match[3]) / 60 + Fraction(match[4] or 0) / 3600
        return Scalar(text, Number(-value if match[1] else value), unit="degree")
    if "base" in text and (match := _BASE_IN_WORDS.fullmatch(" ".join(_TEXT.sub(r" \1 ", text).split()))):
        return _in_base(match[1], match[2], match[3]) or _scalar(text)
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
    if "_" in text and (match := _BASE.fullmatch(text)):
        based = _in_base(match[1], match[2], match[3] or match[4])
        if based is not None:
            return based
    if text[:3].lstrip("-")[:2] in ("0b", "0o", "0x") and (match := _PREFIXED.fullmatch(text)):
        base = 2 if match[2] else 8 if match[3] else 16
        return BaseNumber(match[1] + (match[2] or match[3] or match[4]), base)
    parts = split_top(text, ":") if ":" in text else [text]
    if len(parts) > 1 and all(part.strip() for part in parts):
        return Ratio([part.strip() for part in parts])
    if text.startswith("\\angle") and (angle := _NAMED_ANGLE.fullmatch(text)):
        return Word(min(angle[1], angle[1][::-1]))
    number = parse_number(text)
    if number is None and (_are_letters(text) or (not text.isascii() and NO_SOLUTION.fullmatch(text))):
        return _word(text)
    return Scalar(text, number, percent, unit)


def _in_base(sign: str, digits: str, name: str) -> BaseNumber | None:
    base = _BASES.get(name) or int(name)
    if 2 <= base <= 36 and "." not in digits and all(int(digit, 36) < base for digit in digits):
        return BaseNumber(sign + digits, base)
    return None
