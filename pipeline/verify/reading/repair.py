r"""Undoes damage between the author of an answer and us: Unicode, Markdown, HTML, and escapes that were lost.

A JSON or Python string whose backslashes were not doubled turns `\frac` into a form feed and `rac`, and `\theta` into a tab
and `heta`. HTML gives `x<sup>2</sup>` and `&lt;`. Markdown gives `**12**` and `> **12**`. All of this is tables and linear
patterns, and `repair` first looks for the characters that make the work necessary.
"""

import re
import unicodedata

from pipeline.verify.reading.vocabulary import SUBSCRIPTS, SUPERSCRIPTS, UNICODE

_ESCAPES = {"\x07": "a", "\x08": "b", "\t": "t", "\x0b": "v", "\x0c": "f", "\r": "r", "\n": "n"}
"""Control characters, and the letter of the escape that makes them."""
_LOST = re.compile(
    r"\x07(?=lpha|ngle|pprox|rc)|\x08(?=oxed|inom|eta|egin|ar\b|ig|mod|f\b)|\x0c(?=rac|box|orall|loor)"
    r"|\t(?=ext\s*\{[^{}\d]*\}|extcirc|imes|heta|an\b|au\b|frac|riangle|o\b|binom|ilde)|\x0b(?=ec|ert|arphi|artheta|ee)"
    r"|\r(?=ight|ho\b|angle|floor|ceil|vert)|\n(?=eq\b|eq\{|abla|otin)"
)
_TAG = re.compile(r"<(/?)(sup|sub|b|i|em|strong|u|br|p|span|math)\s*/?>", re.I)
_TAGS = {"sup": ("^{", "}"), "sub": ("_{", "}")}
_ENTITY = re.compile(r"&(#\d{1,6}|#x[0-9a-f]{1,5}|[a-z]{2,8});", re.I)
_ENTITIES = {
    "lt": "<", "gt": ">", "le": r"\le ", "ge": r"\ge ", "ne": r"\ne ", "amp": "&", "nbsp": " ", "times": r"\cdot ",
    "pi": r"\pi ",
    "minus": "-", "plusmn": r"\pm ", "deg": r"\degree ", "frac12": r"\frac{1}{2}", "radic": r"\sqrt ", "infin": r"\infty ",
    "quot": '"', "apos": "'", "middot": r"\cdot ", "sup2": "^{2}", "sup3": "^{3}", "thinsp": " ", "ensp": " ", "emsp": " ",
}  # fmt: skip
_QUOTE = re.compile(r"(?:>\s*)+(?=[*_`$])")
"""A Markdown quotation: `> **12**`. Bare, `> 12` is an inequality."""
_STRONG = re.compile(r"(?<![\w)\]}*\\])(\*{1,3}|__)(?=\S)([^*\n]+?)(?<=[^\s*\\])\1(?!\w|\*)")
_UPPER = re.compile(f"[{''.join(SUPERSCRIPTS)}]+")
_LOWER = re.compile(f"[{''.join(SUBSCRIPTS)}]+")
_SMALL_FRACTION = re.compile(f"([{''.join(SUPERSCRIPTS)}]+)[⁄/]([{''.join(SUBSCRIPTS)}]+)")

_MYRIADS = re.compile(r"(?<=\d)[万萬亿億]")
"""Chinese and Japanese count in ten thousands: `3万` is 30000."""


class _Characters(dict[int, str]):
    """The replacement of every character that has one, worked out when it is first met."""

    def __missing__(self, code: int) -> str:
        self[code] = found = _plain(chr(code))
        return found


def _plain(character: str) -> str:
    code = ord(character)
    if code < 128:
        return character
    if character.isdecimal():  # of any script; not the circled ones, which are marks
        return str(unicodedata.decimal(character))
    if 0xFF01 <= code <= 0xFF5E:  # the full-width forms of ASCII
        return chr(code - 0xFEE0)
    if 0x1D400 <= code <= 0x1D7FF or 0x3380 <= code <= 0x33DF:  # letters of formulas, units in one square
        plain = unicodedata.normalize("NFKC", character)
        plain = "".join(UNICODE.get(ord(part), part) for part in plain)
        return re.sub(r"(?<=[a-z])(\d)$", r"^{\1}", plain)
    if character in "\u200b\u200c\u200d\u2060\ufeff\u00ad":  # no width; the marks that turn text about stay
        return ""
    if code >= 0x1F000 or character in "✅✓✔☑\ufe0f":  # decoration
        return ""
    return " " if unicodedata.category(character) == "Zs" else character


_CHARACTERS = _Characters(UNICODE)


def repair(answer: str) -> str:
    """Writes `answer` in ASCII where possible, without marks of Markdown and HTML, and with its lost backslashes."""
    if not answer.isprintable():
        answer = lost_backslashes(answer)
    if not answer.isascii():
        answer = _SMALL_FRACTION.sub(_fraction, answer)
        answer = _UPPER.sub(lambda match: "^{" + _letters(match.group(), SUPERSCRIPTS) + "}", answer)
        answer = _LOWER.sub(lambda match: "_{" + _letters(match.group(), SUBSCRIPTS) + "}", answer)
        answer = answer.translate(_CHARACTERS)
        answer = _MYRIADS.sub(lambda match: rf"\cdot 10^{{{4 if match.group() in '万萬' else 8}}}", answer)
    if "&" in answer and ";" in answer:
        answer = _ENTITY.sub(_entity, answer)
    if "<" in answer and ">" in answer:
        answer = _TAG.sub(_tag, answer)
    if answer.startswith(">"):
        answer = _QUOTE.sub("", answer, count=1)
    if "*" in answer or "__" in answer:
        answer = _STRONG.sub(r"\2", answer)
    if "~" in answer:
        answer = answer.replace("~", " ")
    return answer


def lost_backslashes(text: str) -> str:
    r"""`text` with `\frac` for a form feed and `rac`, and the like."""
    return _LOST.sub(lambda match: "\\" + _ESCAPES[match.group()], text)


def _letters(run: str, table: dict[str, str]) -> str:
    return "".join(table[character] for character in run)


def _fraction(match: re.Match[str]) -> str:
    above, below = _letters(match.group(1), SUPERSCRIPTS), _letters(match.group(2), SUBSCRIPTS)
    return rf"\frac{{{above}}}{{{below}}}"


def _tag(match: re.Match[str]) -> str:
    name = match.group(2).lower()
    if name in _TAGS:
        return _TAGS[name][1 if match.group(1) else 0]
    return " " if name in ("br", "p") else ""


def _entity(match: re.Match[str]) -> str:
    name = match.group(1)
    if name.startswith("#"):
        code = int(name[2:], 16) if name[1] in "xX" else int(name[1:])
        return chr(code) if 31 < code < 0x110000 and not 0xD800 <= code < 0xE000 else " "
    return _ENTITIES.get(name.lower(), match.group())
