r"""Cleans LaTeX and plain text: one spelling for each thing, without what does not change the meaning.

`clean` gives LaTeX in a reduced vocabulary (`\frac` always with braces, `\le` for every way to write it, `\text` for
every way to set words, `\degree`, `\%`), which the later layers rely on; `key` also drops spaces and grouping, for
comparing strings. Every step is linear in the length of the text.
"""

import re
from functools import lru_cache

from pipeline.verify.reading.repair import repair
from pipeline.verify.reading.vocabulary import FUNCTIONS, SAME, STYLE, TEXT

LONGEST_ANSWER = 4000
"""No answer is longer; what is, is refused before any work."""

_PLAIN_NAMES = re.compile(
    r"(?<![\\A-Za-z])(?:sqrt|pi|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|theta|alpha|beta"
    r"|infinity|infty|inf|oo)(?![A-Za-z])"
)
_TOKEN = re.compile(r"\\\\|\\([A-Za-z]+)\*?(\s*)|\\(.)|([$%`]|\*\*?|[<>!]=|=<)", re.S)
_GROUP = re.compile(r"\s*\{([^{}]*)\}")
_SIMPLE = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?")
_DEGREE = re.compile(
    r"\^\s*(?:\{\s*\\(?:text)?circ\s*\}|\\(?:text)?circ(?![A-Za-z]))|\\degree(?:s)?(?![A-Za-z])"
    r"|(?<=\d)\s*\^\s*(?:\\(?:text|mathrm)\s*\{o\}|\{\s*(?:\\(?:text|mathrm)\s*\{o\}|o)\s*\}|o(?![A-Za-z]))"
)
r"""`^\circ`, and the letter o of `90^\text{o}`."""
_THOUSANDS = re.compile(r"(?<=\d)(?:,\\!\s?|\s?\{\s?,\s?\}\s?|\\,|\{\\,\})(?=\d{3}(?!\d))")
_GROUPED = re.compile(r"(?<![\w.,])\d{1,3}(?:'\d{3})+(?![\d'])|(?<![\w.,])\d{1,3}(?:_\d{3})+(?![\d_])")
_DOTS = re.compile(r"(?<=\.\d)(\d*)\s*\.\.\.+|(?<=,)(\s*)\.\.\.+")
_MARKED = re.compile(
    r"\\(?:overline|overleftrightarrow|overarc|wideparen|widehat)\s*\{\s*([A-Z]{2,4}'?)\s*\}|\\triangle\s*(?=[A-Z]{3})"
)
r"""The sign on `\overline{AB}` says what kind of thing AB is."""
_NUMERAL = r"((?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?)(?![\d.]*\d)"
_ROOT_SIGN = re.compile(r"([√∛∜])\s*" + _NUMERAL)
_ROOT_WORD = re.compile(r"(?<![\\A-Za-z])sqrt\s*" + _NUMERAL)
_DEGREES = {"√": "", "∛": "[3]", "∜": "[4]"}
_SPACE = re.compile(r"\s+")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z(){}\[\]$%,;:!])")
_ANNOUNCED = re.compile(r"\\text\s*\{\s*(?:[Tt]he\s+)?(?:final\s+)?[Aa]nswer(?:\s+is)?\s*:?\s*\}\s*(?=\S)")
r"""`\text{The answer is } 5`."""
_OUTWARD = re.compile(
    r"(^|(?:\\cup|\\cap|\\in|=)\s*)([\[\]])([^\[\]()]*[,;][^\[\]()]*)([\[\]])(?=\s*(?:$|\\cup|\\cap|\\setminus))"
)
"""`]0, 1[`, as French writes an open interval."""
_ONE_LINE = re.compile(r"\\begin\s*\{(aligned|align\*?|gathered|split|equation\*?)\}([^&]*?)\\end\s*\{\1\}", re.S)
"""An environment for several lines that holds one."""
_SCALED = re.compile(
    r"(?<=\d)\s*(?:\\text\s*\{\s*(thousand|million|billion|trillion)\b\s*([^{}]*)\}|\s(thousand|million|billion|trillion)(?![A-Za-z]))",
    re.I,
)
"""`9 million` is 9000000, and not 9 of some unit."""
_ENDS_IN_COMMAND = re.compile(r"\\[A-Za-z]+$")
_SIZED = re.compile(r"\\(?:left|right)(?![A-Za-z])")
_POWER = re.compile(r"(?<=[\w)])\s?\*\*\s?(?=[\w(\-])")
_ORDINAL = re.compile(
    r"(?<=\d)(?:\^\s*\{\s*\\(?:text|textrm|mathrm|mbox)\s*\{(?:st|nd|rd|th)\}\s*\}|(?:\\(?:text|textrm|mathrm|mbox)\s*\{"
    r"(?:st|nd|rd|th)\})|\^\s*\{(?:st|nd|rd|th)\}|(?:st|nd|rd|th)(?![A-Za-z])(?=\}?$))"
)
_STRAY_POINT = re.compile(r"(?<=[\d}])\.(?=[\])])")
"""The point before the bracket of `(0, 1.]`."""
_CHOOSE = re.compile(r"\{([^{}\\]*)\\choose(?![A-Za-z])([^{}\\]*)\}")
_PERCENT = re.compile(r"(?<=[\d}\s)])\s*(?:per\s?cent(?:age)?s?|pct\.?)(?![A-Za-z])", re.I)


@lru_cache(maxsize=128)
def clean(answer: str, prose: bool = False) -> str:
    r"""`answer` in the reduced vocabulary. `prose`: it was cut out of a sentence, where `sqrt` without a backslash is
    a word. Never raises; the empty string where nothing is left."""
    answer = answer.strip()
    if _SIMPLE.fullmatch(answer):
        return answer
    if answer == "{}":
        return r"\emptyset"
    answer = _root_signs(repair(_ROOT_SIGN.sub(_root, answer)) if not answer.isascii() else repair(answer), prose)
    if "\\" in answer or "{" in answer:
        answer = _THOUSANDS.sub("", answer)
        if "\\\\" in answer and "\\begin" not in answer:
            answer = _DOUBLED.sub(lambda _: "\\", answer)  # escaped twice on its way through some JSON
        answer = _DEGREE.sub(r"\\degree ", answer).replace("{:}", ":")
        if answer.startswith("\\text"):
            answer = _ANNOUNCED.sub("", answer, count=1)
    if not prose:
        answer = _PLAIN_NAMES.sub(lambda m: _plain_name(m.group()), answer)
    if "'" in answer or "_" in answer:
        answer = _GROUPED.sub(lambda match: match.group().replace("'", "").replace("_", ""), answer)
    if "..." in answer:
        answer = _DOTS.sub(lambda match: (match.group(1) or match.group(2) or "") + r"\dots ", answer)
    if "\\over" in answer or "\\wide" in answer or "\\tri" in answer:
        answer = _MARKED.sub(r"\1", answer)
    if "\\begin" in answer:
        answer = _ONE_LINE.sub(r"\2", answer)
    if answer.count("{") != answer.count("}"):
        answer = _balanced(answer)
    if ".]" in answer or ".)" in answer:
        answer = _STRAY_POINT.sub("", answer)
    if "**" in answer:
        answer = _POWER.sub("^", answer)
    if "\\choose" in answer:
        answer = _CHOOSE.sub(r"\\binom{\1}{\2}", answer)
    if answer.endswith(("h}", "d}", "t}", "h", "d", "t", "}}")):
        answer = _ORDINAL.sub("", answer)
    answer = _tokens(answer)
    if "\\frac" in answer or "\\sqrt" in answer or "\\binom" in answer:
        answer = brace_arguments(answer)
    answer = _PERCENT.sub(r"\\%", answer)
    if "illion" in answer or "housand" in answer:
        answer = _SCALED.sub(_scaled, answer)
    if answer.startswith("]") or answer.count("[") != answer.count("]"):
        answer = _OUTWARD.sub(_open_ends, answer)
    return _trim(_SPACE.sub(" ", answer))


def _open_ends(match: re.Match[str]) -> str:
    before, low, inside, high = match.groups()
    return f"{before}{'(' if low == ']' else low}{inside}{')' if high == '[' else high}"


def _scaled(match: re.Match[str]) -> str:
    exponent = {"t": 3, "m": 6, "b": 9}[word[0]] if (word := (match[1] or match[3]).lower()) != "trillion" else 12
    rest = rf"\text{{ {match[2]}}}" if match[2] else ""
    return rf" \cdot 10^{{{exponent}}}{rest}"


def _root(match: re.Match[str]) -> str:
    """The whole numeral after a root sign is under it."""
    return rf"\sqrt{_DEGREES[match.group(1)]}{{{match.group(2)}}}"


def _root_signs(answer: str, prose: bool) -> str:
    """The same after the plain word: `sqrt 10` and `sqrt10`. In a sentence it is still a word."""
    if "sqrt" not in answer or prose:
        return answer
    return _ROOT_WORD.sub(r"\\sqrt{\1}", answer)


def _balanced(answer: str) -> str:
    """With the closing braces that are missing at its end, or without those that are too many there."""
    missing = sum(1 if brace == "{" else -1 for brace in re.findall(r"(?<!\\)[{}]", answer))
    if missing > 0:
        return answer + "}" * missing if missing <= 3 else answer
    while missing < 0 and answer.endswith("}") and not answer.endswith("\\}"):
        answer, missing = answer[:-1], missing + 1
    return answer


def _plain_name(name: str) -> str:
    return r"\infty " if name in ("infinity", "infty", "inf", "oo") else f"\\{name} "


def _tokens(answer: str) -> str:
    """Every command in its one spelling, in one pass."""
    out: list[str] = []
    at = 0
    while match := _TOKEN.search(answer, at):
        out.append(answer[at : match.start()])
        at = match.end()
        name, space, symbol, plain = match.group(1), match.group(2), match.group(3), match.group(4)
        if name is not None:
            at = _command(answer, name, space, at, out)
        elif symbol is not None:
            if symbol in "{}|%":
                out.append("|" if symbol == "|" else f"\\{symbol}")
            elif symbol == "$":
                out.append(r"\dollar ")
            elif symbol not in "()[]":
                out.append(" ")
        elif plain is not None:
            out.append({"$": " ", "%": r"\%", "`": " ", "*": r"\cdot ", "**": "", "!=": r"\ne "}.get(plain, ""))
            if plain in ("<=", "=<", ">="):
                out[-1] = r"\ge " if plain == ">=" else r"\le "
        else:
            out.append("\\\\")
    out.append(answer[at:])
    return "".join(out)


def _command(answer: str, name: str, space: str, at: int, out: list[str]) -> int:
    """Writes command `name` to `out`; returns where to go on in `answer`."""
    if name in TEXT or name in STYLE:
        group = _GROUP.match(answer, at)
        if group is None:
            if name in TEXT:
                out.append(r"\text")
            return at
        inside = _SIZED.sub("", group.group(1)) if "\\" in group.group(1) else group.group(1)
        words = inside.strip()
        if (function := words.removeprefix("\\")) in FUNCTIONS:
            out.append(f"\\{function} ")
        elif words in ("\\$", "\\infty"):
            out.append(r"\dollar " if words == "\\$" else r"\infty ")
        elif len(words) <= 1 or words.replace(".", "").replace(",", "").isdecimal():
            out.append(f" {words} " if name in TEXT or _ENDS_IN_COMMAND.search("".join(out[-2:])) else words)
        elif words == "th" or words.lower() == "base":
            pass
        else:
            out.append(f"\\text{{{inside}}}")
        return group.end()
    if (
        name == "phantom"
        or name == "hphantom"
        or name == "vspace"
        or name == "hspace"
        or name == "color"
        or name == "label"
        or name == "tag"
    ):
        group = _GROUP.match(answer, at)
        return group.end() if group else at
    if name in ("left", "right") and answer.startswith(".", at):
        return at + 1
    if name.startswith("quad") or name.startswith("qquad"):  # `\\quadx`: a space was lost on the way
        out.append(" " + name.removeprefix("q").removeprefix("uad") + space)
        return at
    same = SAME.get(name)
    out.append(same if same is not None else f"\\{name}{' ' if space else ''}")
    return at


def brace_arguments(latex: str) -> str:
    r"""`\frac12` -> `\frac{1}{2}`, `\sqrt 3` -> `\sqrt{3}`: every argument of these in braces."""
    partner = _partners(latex)
    inserts: list[tuple[int, int, str]] = []
    for match in re.finditer(r"\\(frac|binom|sqrt)(?![A-Za-z])", latex):
        at = match.end()
        if match.group(1) == "sqrt":
            at = _skip_space(latex, at)
            if at < len(latex) and latex[at] == "[":
                end = latex.find("]", at)
                if end < 0:
                    continue
                at = end + 1
        for _ in range(1 if match.group(1) == "sqrt" else 2):
            at = _skip_space(latex, at)
            if at >= len(latex) or latex[at] in "(),}])":
                break
            if latex[at] == "{":
                if at not in partner:
                    break
                at = partner[at] + 1
                continue
            token = re.compile(r"\\[A-Za-z]+|.", re.S).match(latex, at)
            assert token is not None
            if token.group() in ("\\sqrt", "\\frac", "\\binom"):  # its own arguments come first: leave it
                break
            inserts += [(at, 1, "{"), (token.end(), 0, "}")]
            at = token.end()
    if not inserts:
        return latex
    out, last = [], 0
    for position, _, text in sorted(inserts, key=lambda item: (item[0], item[1])):
        out += [latex[last:position], text]
        last = position
    return "".join([*out, latex[last:]])


def _skip_space(text: str, at: int) -> int:
    while at < len(text) and text[at] == " ":
        at += 1
    return at


def _partners(latex: str) -> dict[int, int]:
    """Where each `{` closes."""
    partner: dict[int, int] = {}
    stack: list[int] = []
    for match in re.finditer(r"\\.|[{}]", latex, re.S):
        if match.group() == "{":
            stack.append(match.start())
        elif match.group() == "}" and stack:
            partner[stack.pop()] = match.start()
    return partner


def _trim(text: str) -> str:
    """Without punctuation at its ends and without braces that hold the whole."""
    while True:
        before = text
        text = text.strip().rstrip(" .,;:").lstrip(" ,;:")
        if text.endswith("\\") and not text.endswith("\\\\"):
            text = text[:-1]
        if text.endswith("\\\\"):
            text = text[:-2]
        if text.endswith(r"\}") and r"\{" not in text:
            text = text[:-2]
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            text = text[1:-1]
        if text.startswith("{") and text.endswith("}") and "," not in text and _partners(text).get(0) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            return text


_LISTED = re.compile(r"(?<=\d)\s*,\s+(?=\d)")
"""`1, 234` is two numbers, `1,234` one."""
_MIXED = re.compile(r"(?<=\d)\s+(?=\d)(?!\d{3}(?!\d))")
"""`2 3/4` is not `23/4`, but `1 000` is `1000`."""
_BEFORE_A_LETTER = re.compile(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])")
_SINGLE = re.compile(r"([\^_])\{([A-Za-z0-9])\}")


@lru_cache(maxsize=128)
def key(cleaned: str) -> str:
    """For comparing as strings: no spaces, no braces around single characters, one spelling of signs."""
    if _SIMPLE.fullmatch(cleaned):
        return cleaned
    text = cleaned
    if " " in text:
        text = _LISTED.sub(";", text)
        text = _MIXED.sub("~", text)
        text = _SPACE.sub("", _BEFORE_A_LETTER.sub(r"\1{}", text))
    if "{" in text:
        text = _SINGLE.sub(r"\1\2", text)
    return text.replace(r"\cdot", "*")
