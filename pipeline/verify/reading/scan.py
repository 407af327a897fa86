"""Splits LaTeX where no bracket is open, each time in one pass over the text."""

import re

_SCAN = re.compile(r"\\begin\b|\\end\b|\\[A-Za-z]+|\\.|[()\[\]{}]|<=|>=|!=|[,;:|=<>]", re.S)
_OPEN = {"(", "[", "{", "\\{", "\\begin", "\\lfloor", "\\lceil", "\\langle"}
_CLOSE = {")", "]", "}", "\\}", "\\end", "\\rfloor", "\\rceil", "\\rangle"}


def split_top(text: str, separator: str) -> list[str]:
    """Splits `text` at every `separator` outside of all brackets."""
    if separator not in text:
        return [text]
    parts, last, depth = [], 0, 0
    for match in _SCAN.finditer(text):
        token = match.group()
        if token in _OPEN:
            depth += 1
        elif token in _CLOSE:
            depth -= 1
        elif token == separator and depth <= 0:
            parts.append(text[last : match.start()])
            last = match.end()
    return [*parts, text[last:]]


def find_top(text: str, wanted: set[str]) -> list[tuple[str, int, int]]:
    """(token, start, end) of each of `wanted` outside of all brackets."""
    found, depth = [], 0
    for match in _SCAN.finditer(text):
        token = match.group()
        if token in _OPEN:
            depth += 1
        elif token in _CLOSE:
            depth -= 1
        elif token in wanted and depth <= 0:
            found.append((token, match.start(), match.end()))
    return found


def peel(text: str) -> tuple[str, str]:
    r"""(inside, brackets) where one pair of brackets, not necessarily alike, holds the whole: `[0,1)` gives
    `("0,1", "[)")`. The text and "" where none does."""
    for opening in ("\\{", "\\langle", "(", "[", "{"):
        if text.startswith(opening):
            break
    else:
        return text, ""
    depth = 0
    for match in _SCAN.finditer(text):
        token = match.group()
        if token in _OPEN:
            depth += 1
        elif token in _CLOSE:
            depth -= 1
            if depth == 0:
                if match.end() != len(text):
                    return text, ""
                inside = text[len(opening) : match.start()]
                kind = "()" if opening == "\\langle" else opening + token
                return inside.strip(), kind
    return text, ""
