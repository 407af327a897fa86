r"""Text of problems: cleaned for use, and in forms for comparing, in which only what can change a problem's meaning remains.

Numbers and operators matter in mathematics: `2+2` and `2-2` are different problems, `$\dfrac12$` and `\frac{1}{2}` one.
"""

import re
import unicodedata

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u2060\ufeff\ufffe\uffff\ud800-\udfff]")
_EATEN = re.compile(
    r"\x0c(?=rac|lat|loor|orall)|\x08(?=oxed|inom|egin|eta|ar|igl?|m?od|ot|ullet|oldsymbol)|\t(?=imes|ext|heta|frac|riangle|au\b|an\b)|\r(?=ight|ho\b|angle|ceil|floor)"
)
"""The control characters that JSON makes of the first letters of LaTeX commands whose backslash was not doubled."""
_EATEN_LETTER = {"\x0c": "\\f", "\x08": "\\b", "\t": "\\t", "\r": "\\r"}
_LINE_SPACE = re.compile(r"[^\S\n]+")
_LINE_END = re.compile(r" ?\n ?")
_BLANK_LINES = re.compile(r"\n{3,}")

_PLAIN = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "‐": "-", "‑": "-", "’": "'", "‘": "'", "′": "'", "“": '"', "”": '"', "×": r"\times ",
        "·": r"\cdot ", "⋅": r"\cdot ", "÷": r"\div ", "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "π": r"\pi ", "∞": r"\infty ",
        "°": r"^\circ ", "²": "^2 ", "³": "^3 ", "√": r"\sqrt ", "±": r"\pm ", "½": r"\frac 1 2 ", "…": r"\dots ",
    }
)  # fmt: skip
"""Signs that people also write in ASCII or LaTeX."""
_SPELLINGS = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\leq": r"\le", r"\geq": r"\ge", r"\neq": r"\ne",
    r"\leqslant": r"\le", r"\geqslant": r"\ge", r"\ldots": r"\dots", r"\cdots": r"\dots", r"\lt": "<", r"\gt": ">",
    r"\lbrace": "{", r"\rbrace": "}", r"\dbinom": r"\binom", r"\tbinom": r"\binom", r"\mid": "|", r"\vert": "|",
}  # fmt: skip
_LOOKS = frozenset(
    {
        r"\left", r"\right", r"\quad", r"\qquad", r"\text", r"\textbf", r"\textit", r"\textrm", r"\mathrm", r"\mathbf",
        r"\mbox", r"\displaystyle", r"\textstyle", r"\big", r"\Big", r"\bigg", r"\Bigg", r"\limits", r"\rm", r"\it",
        r"\textsf", r"\mathit", r"\emph", r"\underline", r"\hspace", r"\noindent", r"\operatorname", r"\boldsymbol",
    }
)  # fmt: skip
"""Commands that change how a problem looks, not what it asks."""
_ESCAPES = frozenset({r"\(", r"\)", r"\[", r"\]", r"\,", r"\;", r"\:", r"\!", r"\ ", "\\\\"})
_PUNCTUATION = frozenset('.,;?"`~$')
_ONE_IN_BRACES = re.compile(r"\{\s*([A-Za-z0-9]|\\[A-Za-z]+)\s*\}")
_SHORT_FRACTION = re.compile(r"(\\[dtc]?frac)\s*(\d)\s*(\d)")
_TOKEN = re.compile(r"\\[A-Za-z]+|\\.|[^\W\d_]+|\d+(?:,\d{3}(?!\d))*(?:\.\d+)?|\.\d+|[^\w\s]|_", re.S)
_TITLE = re.compile(r"[A-Z][a-z]+")
_WORD = re.compile(r"[^\W\d_]+|\d+(?:,\d{3}(?!\d))*(?:\.\d+)?")
_NUMBER_WORDS = {
    "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8",
    "nine": "9", "ten": "10", "eleven": "11", "twelve": "12", "thirteen": "13", "fourteen": "14", "fifteen": "15",
    "sixteen": "16", "seventeen": "17", "eighteen": "18", "nineteen": "19", "twenty": "20", "thirty": "30", "forty": "40",
    "fifty": "50", "hundred": "100", "thousand": "1000", "dozen": "12", "half": "1/2", "third": "1/3", "quarter": "1/4",
    "twice": "x2", "double": "x2", "thrice": "x3", "triple": "x3",
}  # fmt: skip
_OPERATORS = frozenset(
    {"+", "-", "*", "/", "=", "<", ">", "^", "!", r"\times", r"\cdot", r"\div", r"\pm", r"\le", r"\ge"}
)


def clean(text: str) -> str:
    """Unicode NFC; no control or zero-width characters; line ends `\\n`; single spaces; at most one empty line.

    LaTeX whose backslash JSON read as an escape (`"\\frac"` with one backslash is a form feed and `rac`) is restored.
    """
    text = _EATEN.sub(lambda match: _EATEN_LETTER[match[0]], text)
    text = _CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    text = unicodedata.normalize("NFC", text)  # last of the two: a control character can keep an accent from its letter
    text = _LINE_END.sub("\n", _LINE_SPACE.sub(" ", text))
    return _BLANK_LINES.sub("\n\n", text).strip()


def tokens(text: str) -> list[str]:
    """Words, numbers, LaTeX commands and symbols in their order, in one spelling.

    Dollar signs, spacing commands, braces around one sign and the punctuation of prose are left out. Capitals at a word's
    start are made small where others follow; `A` and `a`, or `AB` and `ab`, remain different names.
    """
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_PLAIN)
    text = _SHORT_FRACTION.sub(r"\1 \2 \3 ", text)
    text = _ONE_IN_BRACES.sub(r" \1 ", text)
    found: list[str] = []
    for token in _TOKEN.findall(text):
        if token in _PUNCTUATION or token in _LOOKS or token in _ESCAPES:
            continue
        if token[0] == "\\":
            token = _SPELLINGS.get(token, token)
        elif token[0].isdigit():
            token = token.replace(",", "")
        elif _TITLE.fullmatch(token):
            token = token.lower()
        found.append(token)
    return found


def canonical(tokens: list[str]) -> str:
    """One text for all ways of typing one problem."""
    return " ".join(tokens)


def quantities(tokens: list[str]) -> tuple[str, ...]:
    """The numbers (also as words) in their order, and the operators and one-letter names, sorted.

    Where these differ, two problems are different, even if their words are the same.
    """
    numbers = [_NUMBER_WORDS.get(token, token) for token in tokens if _is_number(token)]
    return (*numbers, *sorted(token for token in tokens if _is_sign(token)))


def _is_number(token: str) -> bool:
    return token[0].isdigit() or (token[0] == "." and len(token) > 1) or token in _NUMBER_WORDS


def _is_sign(token: str) -> bool:
    return token in _OPERATORS or (len(token) == 1 and token.isalpha() and token not in "aAI")  # those are words too


def words(text: str) -> list[str]:
    """Words and numbers alone, in small letters: what n-grams are made of."""
    found = (word.replace(",", "") for word in _WORD.findall(text.casefold()))
    return ["frac" if word in ("dfrac", "tfrac", "cfrac") else word for word in found]
