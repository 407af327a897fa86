r"""Reads LaTeX with latex2sympy2, from a clean global state, all of the input or nothing, and fast.

latex2sympy2 keeps global state that an input can spoil (`x = 3` binds x, `dx` overwrites the table of variables). Its
grammar does not ask that all of the input be read: `12 \\ 13` comes back as 12. And ANTLR's full look-ahead (LL) takes
tens of milliseconds in Python where the simple one (SLL) takes one; what SLL can read it reads as LL does, and what it
cannot read is tried again with LL.
"""

import re
from functools import lru_cache
from typing import Any

from pipeline.verify.reading.scan import find_top

LONGEST = 1200
"""Characters of one side; ANTLR's look-ahead is worse than linear."""
_LETTER_COMMANDS = re.compile(r"\\(?:variable|mathit|operatorname|bm|text)(?![A-Za-z])")
_TWO_NUMBERS = re.compile(r"\d[\s'~]+\d|\.\.|'|~")
"""It takes `12 13` for a product, and reads past marks that it does not know."""
_END = -1
"""ANTLR's token type for the end of the input."""

_library: Any = None
_modes: list[Any] = []
_mode: Any = None
_streams: list[Any] = []
"""The token stream of the last reading."""


def attach(latex2sympy2: Any) -> None:
    """Watch this module's token streams and choose its parser's look-ahead, for the life of the process."""
    global _library
    from antlr4.atn.PredictionMode import PredictionMode

    _library = latex2sympy2
    _modes[:] = [PredictionMode.SLL, PredictionMode.LL]
    make_stream, start_parser = latex2sympy2.CommonTokenStream, latex2sympy2.PSParser.__init__

    def remembered(lexer: Any) -> Any:
        _streams.append(make_stream(lexer))
        return _streams[-1]

    def start(parser: Any, *arguments: Any) -> None:
        start_parser(parser, *arguments)
        parser._interp.predictionMode = _mode

    latex2sympy2.CommonTokenStream = remembered
    latex2sympy2.PSParser.__init__ = start


@lru_cache(maxsize=2000)
def read(latex: str) -> Any:
    """The sympy object that `latex` is; None where it cannot be read, or is no expression. Golds repeat within a group of
    rollouts, so readings are remembered."""
    if len(latex) > LONGEST or _LETTER_COMMANDS.search(latex) or _TWO_NUMBERS.search(latex):
        return None
    if "=" in latex and find_top(latex, {"="}):  # `x = 12` would come back as 12
        return None
    for mode in _modes:
        found = _once(latex, mode)
        if found is not None:
            return found
    return None


def _once(latex: str, mode: Any) -> Any:
    global _mode
    _mode = mode
    _streams.clear()
    _library.variances = {}
    _library.var = {}
    _library.VARIABLE_VALUES = {}
    try:
        found = _library.latex2sympy(latex)
    except (MemoryError, RecursionError):
        raise
    except Exception:  # its grammar raises bare Exception for every input that it does not know
        return None
    if (
        not hasattr(found, "free_symbols")
        or getattr(found, "is_Boolean", False)
        or getattr(found, "is_Relational", False)
    ):
        return None  # a list, a relation, nothing
    return found if _streams and _streams[-1].LA(1) == _END else None
