"""Text that others wrote (models, users, files), made safe to show in a page."""

import html
import unicodedata
from typing import Any

LIMIT = 1600
"""Characters shown of one text."""


def escape(value: Any) -> str:
    """HTML of any value's text, for element content and quoted attributes.

    What a browser would not show, or would obey, is made visible: control characters as their pictures (NUL as ␀),
    lone surrogates, marks that turn the direction of writing and other invisible characters as `\\u202e`.
    """
    return html.escape("".join(map(_visible, str(value))), quote=True)


def shortened(value: Any, limit: int = LIMIT) -> str:
    """`escape`, with what lies beyond `limit` characters left out from the middle and counted: ends hold the answer."""
    text = str(value)
    if len(text) <= limit:
        return escape(text)
    head, tail = text[: limit * 2 // 3], text[-(limit - limit * 2 // 3) :]
    note = f'<span class="cut"> … {len(text) - limit:,} characters left out … </span>'
    return f"{escape(head)}{note}{escape(tail)}"


def _visible(character: str) -> str:
    code = ord(character)
    if character in "\n\t" or 32 <= code < 127:
        return character
    if code < 32:
        return chr(0x2400 + code)
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"\\u{code:04x}"
    return character
