"""An import hook that rewrites the CUDA assumptions of `megatron.core` at import, and nothing else.

torch itself does not change, so other libraries in the process see an ordinary CPU build.
"""

import importlib.machinery
import importlib.util
import sys
from types import CodeType

from megatron_patches.upstream.cpu.rules import IDIOM_COUNTS, LINES


def patched_modules() -> list[str]:
    """Lists the megatron-core modules that have rules."""
    return sorted({*IDIOM_COUNTS, *LINES})


def rewrite(source: str, module: str) -> str:
    """Replaces the CUDA lines in the `source` of `module`; line numbers stay the same.

    Raises ImportError that names the rule if the source does not match it exactly.
    """
    for idiom, expected in IDIOM_COUNTS.get(module, {}).items():
        found = sum(source.count(spelling) for spelling in idiom.spellings)
        if found != expected:
            raise ImportError(
                f"patch cpu/{module}: expected {idiom.spellings[0]!r} {expected} times, found {found}; "
                "this megatron-core is not the pinned version, reinstall it (requirements/)"
            )
        for spelling, replacement in zip(idiom.spellings, idiom.replacements, strict=True):
            source = source.replace(spelling, replacement)
    for line in LINES.get(module, ()):
        if source.count(line.before) != 1:
            raise ImportError(
                f"patch cpu/{module}/{line.name}: expected the line {line.before.strip()!r} once, found it "
                f"{source.count(line.before)} times; this megatron-core is not the pinned version, reinstall it "
                "(requirements/)"
            )
        source = source.replace(line.before, line.after)
    return source


class _Loader(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname: str) -> CodeType:
        # super().get_code() would use the .pyc cache of the unpatched source.
        path = self.get_filename(fullname)
        source = importlib.util.decode_source(self.get_data(path))
        return compile(rewrite(source, fullname), path, "exec", dont_inherit=True)


class _Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in IDIOM_COUNTS and name not in LINES:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


def install() -> None:
    """Installs the hook, once. Raises ImportError if a module with rules is already loaded."""
    if any(isinstance(finder, _Finder) for finder in sys.meta_path):
        return
    late = [name for name in patched_modules() if name in sys.modules]
    if late:
        raise ImportError(
            f"megatron_patches must be imported before megatron.core: {late[0]} is already loaded without its patch; "
            "move `import megatron_patches` before it"
        )
    sys.meta_path.insert(0, _Finder())  # type: ignore[arg-type]
