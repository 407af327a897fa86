"""Names that a person types: the nearest right one, and the message for a wrong one.

Standard library alone: `bash run.sh` checks names before any environment exists.
"""

import difflib
from collections.abc import Iterable


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name that was most likely meant, or None if none is near."""
    names, word = list(names), word.lower()
    found = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if found:
        return found[0]
    return next((name for name in names if word and (name.startswith(word) or word.startswith(name))), None)


def unknown(kind: str, word: str, names: Iterable[str]) -> str:
    """The message for a name that does not exist: the name, the nearest right one, and all that exist."""
    names = list(names)
    guess = nearest(word, names)
    hint = f" Did you mean {kind}={guess}?" if guess else ""
    return f"{kind}={word}: there is no such {kind}.{hint}\nAllowed: {', '.join(names)}"
