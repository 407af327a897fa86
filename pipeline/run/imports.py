"""Functions that a setting names as `path/to/file.py:function` or `package.module:function`, found without running them.

Importing a user's file here could take minutes or need a GPU, so its source is parsed instead.
"""

import os
import symtable
import sys
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path

from pipeline.common.errors import InputError, UsageError
from pipeline.common.names import nearest
from pipeline.run.door import ROOT


def check_function(key: str, value: str) -> None:
    """Checks that the function exists.

    Raises:
        InputError: the file is missing or cannot be read.
        UsageError: no such module, no such function, or not Python.
    """
    module, _, function = value.rpartition(":")
    if not module.endswith(".py") and module not in sys.builtin_module_names and _spec_of(module) is None:
        raise UsageError(f"{key}={value}: there is no module {module}. It must be importable from {ROOT}.")
    source = source_of(value)
    if source is None:
        return  # compiled: it cannot be looked into
    try:
        text = source.read_text("utf-8")
        names = _names_of(text, str(source))
    except OSError as error:
        raise InputError(f"{key}={value}: {source.absolute()} cannot be read ({error.strerror}).") from error
    except (ValueError, SyntaxError) as error:
        raise UsageError(f"{key}={value}: {source.absolute()} is not Python ({error}).") from error
    if names is not None and function not in names:
        guess = nearest(function, names)
        hint = f" Did you mean {module}:{guess}?" if guess else ""
        raise UsageError(f"{key}={value}: {source} has no function {function}.{hint}")


def source_of(value: str) -> Path | None:
    """The source file of a named function; None if there is none (a compiled module) or the module does not exist."""
    module = value.rpartition(":")[0]
    if module.endswith(".py"):
        return Path(module).expanduser()
    spec = _spec_of(module)
    origin = spec.origin if spec is not None else None
    return Path(origin) if origin is not None and origin.endswith(".py") else None


def _spec_of(module: str) -> ModuleSpec | None:
    """Where Python would find the module, without importing its parent packages as `importlib.util.find_spec` does."""
    typed_in = os.environ.get("ETR_FOLDER")  # on this process's path, and not on that of the ranks
    path: list[str] | None = [str(ROOT), *(entry for entry in sys.path if entry and entry != typed_in)]
    spec: ModuleSpec | None = None
    name = ""
    for part in module.split("."):
        name = f"{name}.{part}" if name else part
        spec = PathFinder.find_spec(name, path)
        if spec is None:
            return None
        path = list(spec.submodule_search_locations or [])
    return spec


def _names_of(text: str, file: str) -> set[str] | None:
    """Names that a module binds; None if that cannot be told (`from x import *`, a module-level `__getattr__`)."""
    table = symtable.symtable(text, file, "exec")
    bound = {
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_assigned() or symbol.is_imported() or symbol.is_namespace()
    }
    return None if "import *" in text or "__getattr__" in bound else bound
