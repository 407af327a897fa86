r"""One spelling for each thing: LaTeX and plain text cleaned of what does not change their meaning.

`clean` gives LaTeX in a reduced vocabulary (`\frac` always with braces, `\le` for every way to write it, `\text` for
every way to set words, `\degree`, `\%`), which the later layers rely on; `key` also drops spaces and grouping, for
comparing strings. Every step is linear in the length of the text.
"""

import re

LONGEST_ANSWER = 4000
"""No answer is longer; what is, is refused before any work."""

_UNICODE = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "×": r"\cdot ", "·": r"\cdot ", "⋅": r"\cdot ", "∗": "*", "÷": "/", "⁄": "/",
        "≤": r"\le ", "≥": r"\ge ", "⩽": r"\le ", "⩾": r"\ge ", "≠": r"\ne ", "≈": r"\approx ", "∞": r"\infty ", "π": r"\pi ",
        "°": r"\degree ", "º": r"\degree ", "±": r"\pm ", "∓": r"\mp ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ", "∅": r"\emptyset ",
        "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "⅓": r"\frac{1}{3}",
        "⅔": r"\frac{2}{3}", "²": "^{2}", "³": "^{3}", "⁴": "^{4}", "⁵": "^{5}", "⁰": "^{0}", "¹": "^{1}", "ⁿ": "^{n}", "₀": "_{0}", "₁": "_{1}",
        "₂": "_{2}", "₃": "_{3}", "₄": "_{4}", "₅": "_{5}", "₆": "_{6}", "₇": "_{7}", "₈": "_{8}", "₉": "_{9}", "θ": r"\theta ", "α": r"\alpha ",
        "β": r"\beta ", "γ": r"\gamma ", "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ", "ω": r"\omega ", "σ": r"\sigma ", "Δ": r"\Delta ",
        "，": ",", "。": ".", "：": ":", "；": ";", "（": "(", "）": ")", "［": "[", "］": "]", "｛": "{", "｝": "}", "＝": "=", "＋": "+", "－": "-",
        "％": "%", "’": "'", "‘": "'", "“": '"', "”": '"', "′": "'", "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\u200b": "", "\ufeff": "",
        "€": r"\euro ", "£": r"\pounds ", "¥": r"\yen ", "￥": r"\yen ", "₹": r"\rupee ", "、": ",", "√": r"\sqrt ", "∛": r"\sqrt[3]",
    }
)  # fmt: skip
_FULLWIDTH = {ord("０") + i: ord("0") + i for i in range(10)}

_SAME = {
    "dfrac": r"\frac", "tfrac": r"\frac", "cfrac": r"\frac", "leq": r"\le ", "leqslant": r"\le ", "le": r"\le ", "geq": r"\ge ",
    "geqslant": r"\ge ", "ge": r"\ge ", "lt": "<", "gt": ">", "neq": r"\ne ", "ne": r"\ne ", "times": r"\cdot ", "ast": r"\cdot ", "cdotp": r"\cdot ",
    "cdot": r"\cdot ", "div": "/", "lbrace": r"\{", "rbrace": r"\}", "lbrack": "[", "rbrack": "]", "lparen": "(", "rparen": ")", "lvert": "|",
    "rvert": "|", "vert": "|", "mid": "|", "tbinom": r"\binom", "dbinom": r"\binom", "varnothing": r"\emptyset ", "empty": r"\emptyset ",
    "quad": " ", "qquad": " ", "displaystyle": " ", "textstyle": " ", "limits": " ", "nolimits": " ", "enspace": " ", "thinspace": " ",
    "hfill": " ", "left": "", "right": "", "big": "", "Big": "", "bigg": "", "Bigg": "", "bigl": "", "bigr": "", "Bigl": "", "Bigr": "", "biggl": "",
    "biggr": "", "Biggl": "", "Biggr": "", "middle": "", "bigm": "", "R": r"\mathbb{R}", "reals": r"\mathbb{R}", "Reals": r"\mathbb{R}",
    "wedge": r"\text{ and }", "land": r"\text{ and }", "vee": r"\text{ or }", "lor": r"\text{ or }", "colon": ":", "ldots": r"\dots ", "cdots": r"\dots ",
    "boxed": "", "fbox": "", "textdollar": r"\dollar ", "degree": r"\degree ", "bmod": r"\bmod ", "mod": r"\bmod ", "arctg": r"\arctan ",
    "tg": r"\tan ", "ctg": r"\cot ", "lg": r"\log ", "backslash": r"\setminus ", "smallsetminus": r"\setminus ", "nobreak": "", "prime": "'",
    "newline": " ", "par": " ", "hspace": "", "strut": "", "mathstrut": "", "bigcup": r"\cup ", "intercal": "T", "thickspace": " ", "cup": r"\cup ",
}  # fmt: skip
_TEXT = {
    "text",
    "textbf",
    "textit",
    "textrm",
    "textnormal",
    "textsf",
    "texttt",
    "mbox",
    "hbox",
    "emph",
    "textsc",
    "texttrm",
    "underline",
}
_STYLE = {
    "mathrm",
    "mathbf",
    "mathit",
    "mathsf",
    "mathtt",
    "mathcal",
    "mathfrak",
    "boldsymbol",
    "bm",
    "pmb",
    "operatorname",
    "mathop",
}
_FUNCTIONS = {
    "sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "coth", "arcsin", "arccos", "arctan", "arccot", "log", "ln", "exp", "sqrt",
    "gcd", "lcm", "max", "min", "det", "lim", "floor", "ceil", "arsinh", "arcosh", "artanh", "arcsec", "arccsc",
}  # fmt: skip
_PLAIN_NAMES = re.compile(
    r"(?<![\\A-Za-z])(?:sqrt|pi|arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|theta|alpha|beta|infinity|infty|inf|oo)(?![A-Za-z])"
)
_TOKEN = re.compile(r"\\\\|\\([A-Za-z]+)\*?(\s*)|\\(.)|([$%`]|\*\*?|[<>!]=|=<)", re.S)
_GROUP = re.compile(r"\s*\{([^{}]*)\}")
_SIMPLE = re.compile(r"[-+]?\d+(?:\.\d+)?")
_DEGREE = re.compile(r"\^\s*(?:\{\s*\\circ\s*\}|\\circ(?![A-Za-z]))|\\degree(?:s)?(?![A-Za-z])")
_THOUSANDS = re.compile(r"(?<=\d)(?:,\\!\s?|\s?\{\s?,\s?\}\s?|\\,|\{\\,\})(?=\d{3}(?!\d))")
_SPACE = re.compile(r"\s+")
_DOUBLED = re.compile(r"\\\\(?=[A-Za-z(){}\[\]$%,;:!])")
_SIZED = re.compile(r"\\(?:left|right)(?![A-Za-z])")
_POWER = re.compile(r"(?<=[\w)])\s?\*\*\s?(?=[\w(\-])")
_PERCENT = re.compile(r"(?<=[\d}\s)])\s*(?:per\s?cent(?:age)?s?|pct\.?)(?![A-Za-z])", re.I)


def clean(answer: str, prose: bool = False) -> str:
    r"""`answer` in the reduced vocabulary. `prose`: it was cut out of a sentence, where `sqrt` without a backslash is
    a word. Never raises; the empty string where nothing is left."""
    answer = answer.strip()
    if _SIMPLE.fullmatch(answer):
        return answer
    if not answer.isascii():
        answer = answer.translate(_UNICODE).translate(_FULLWIDTH)
    if "\\" in answer or "{" in answer:
        answer = _THOUSANDS.sub("", answer)
        if "\\\\" in answer and "\\begin" not in answer:
            answer = _DOUBLED.sub(lambda _: "\\", answer)  # escaped twice on its way through some JSON
        answer = _DEGREE.sub(r"\\degree ", answer)
    if not prose:
        answer = _PLAIN_NAMES.sub(lambda m: _plain_name(m.group()), answer)
    if "**" in answer:
        answer = _POWER.sub("^", answer)
    answer = _tokens(answer)
    if "\\frac" in answer or "\\sqrt" in answer or "\\binom" in answer:
        answer = brace_arguments(answer)
    answer = _PERCENT.sub(r"\\%", answer)
    return _trim(_SPACE.sub(" ", answer))


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
    if name in _TEXT or name in _STYLE:
        group = _GROUP.match(answer, at)
        if group is None:
            if name in _TEXT:
                out.append(r"\text")
            return at
        inside = _SIZED.sub("", group.group(1)) if "\\" in group.group(1) else group.group(1)
        words = inside.strip()
        if name in _STYLE and words in _FUNCTIONS:
            out.append(f"\\{words} ")
        elif len(words) <= 1 or words.replace(".", "").replace(",", "").isdigit():
            out.append(f" {words} " if name in _TEXT else words)
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
    same = _SAME.get(name)
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
        if text.endswith(r"\}") and r"\{" not in text:
            text = text[:-2]
        if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
            text = text[1:-1]
        if text.startswith("{") and text.endswith("}") and "," not in text and _partners(text).get(0) == len(text) - 1:
            text = text[1:-1]
        if text == before:
            return text


def key(cleaned: str) -> str:
    """For comparing as strings: no spaces, no braces around single characters, one spelling of signs."""
    if _SIMPLE.fullmatch(cleaned):
        return cleaned
    text = re.sub(r"(?<=\d)\s*,\s+(?=\d)", ";", cleaned)  # `1, 234` is two numbers, `1,234` one
    text = re.sub(r"\s+", "", re.sub(r"(\\[A-Za-z]+)\s+(?=[A-Za-z])", r"\1{}", text))
    text = re.sub(r"([\^_])\{([A-Za-z0-9])\}", r"\1\2", text)
    return text.replace(r"\cdot", "*")
