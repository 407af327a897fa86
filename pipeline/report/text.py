"""Makes text of models, users and files safe to show in a page."""

import html
import unicodedata
from typing import Any

LIMIT = 1600
"""Characters shown of one text."""


def escape(value: Any) -> str:
    """HTML of any value's text, for element content and quoted attributes.

    Characters that a browser hides or obeys are made visible: control characters as their pictures (NUL as ␀), lone
    surrogates, direction marks and other invisible characters as `\\u202e`.
    """
    return html.escape("".join(map(_visible, str(value))), quote=True)


def shortened(value: Any, limit: int = LIMIT) -> str:
    """`escape` of a text of at most `limit` characters; more are cut from the middle, because the answer is at the end."""
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
