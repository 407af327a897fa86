"""Pickles that others may have written, read without running what they ask for."""

import importlib
import io
import pickle
from collections.abc import Iterable
from typing import Any


class ForeignClass(pickle.UnpicklingError):
    """A pickle names a class or function that its kind of file does not need."""


class SafeUnpickler(pickle.Unpickler):
    """An unpickler that knows only the names it is given.

    Python's own imports any name that the bytes ask for and calls it, so that a crafted file runs commands. Here a name
    outside the list is refused before anything is imported.
    """

    def __init__(self, data: bytes, allowed: Iterable[str]):
        """`allowed` are full names, `module.name`; `module.*` allows what is defined in that very module."""
        super().__init__(io.BytesIO(data))
        self.allowed = frozenset(allowed)

    def find_class(self, module: str, name: str) -> Any:
        """Raises ForeignClass for a name that is not allowed."""
        if f"{module}.{name}" in self.allowed:
            return getattr(importlib.import_module(module), name)
        if f"{module}.*" in self.allowed and name.isidentifier():
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and found.__module__ == module:
                return found
        raise ForeignClass(f"{module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise ForeignClass(f"persistent id {pid!r}")


def loads(data: bytes, allowed: Iterable[str]) -> Any:
    """The object in `data`. Raises ForeignClass naming the first name that is not allowed, and what pickle raises for
    damaged bytes."""
    return SafeUnpickler(data, allowed).load()
