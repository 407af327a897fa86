"""The registry against the installed megatron-core, and against sources that no longer match.

A patch points at a line of an upstream file. The line must exist and be the one that the patch is about, and the
replacement must exist. If megatron-core lacks a piece of text that a patch relies on, the import must fail with the
patch's name, before anything changes.
"""

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import megatron_patches
from megatron_patches.upstream import registry

import megatron.core  # isort: skip
import pytest

from megatron_patches.upstream.cpu import hook
from megatron_patches.upstream.cpu.rules import IDIOM_COUNTS, LINES

ROOT = Path(megatron_patches.__file__).parents[1]
UPSTREAM = Path(megatron.core.__file__).parents[2]
PIECES = [(r.name, module, piece) for r in registry.REPLACEMENTS for module, piece in r.pieces()]
RULES = [
    *(
        (module, module, spelling)
        for module, idioms in IDIOM_COUNTS.items()
        for i in idioms
        for spelling in i.spellings
    ),
    *((f"{module}/{line.name}", module, line.before) for module, lines in LINES.items() for line in lines),
]


def without(module: str, piece: str):
    """Returns a reader of megatron-core's sources without one piece of one module."""

    def source(name: str) -> str:
        text = registry.upstream_source(name)
        return text.replace(piece, "gone") if name == module else text

    return source


def test_the_installed_megatron_core_matches():
    registry.check()


@pytest.mark.parametrize(("name", "module", "piece"), PIECES)
def test_a_source_without_a_piece_fails_with_the_name_of_the_patch(name, module, piece):
    with pytest.raises(ImportError, match=rf"patch {name}: {re.escape(module)} no longer contains"):
        registry.check(without(module, piece))


def test_a_changed_cuda_line_fails_with_the_name_of_the_rule():
    for name, module, piece in RULES:
        source = registry.upstream_source(module)
        if piece not in source:  # a spelling of an idiom that this module does not use
            continue
        for altered in (source.replace(piece, "gone", 1), source + piece):
            with pytest.raises(ImportError, match=f"patch cpu/{re.escape(name)}"):
                hook.rewrite(altered, module)


def test_a_rewritten_module_keeps_its_lines_and_no_rule_is_left():
    for module in hook.patched_modules():
        source = registry.upstream_source(module)
        rewritten = hook.rewrite(source, module)
        assert rewritten.count("\n") == source.count("\n"), "tracebacks must point at upstream's lines"
        compile(rewritten, module, "exec")
        gone = [spelling for idiom in IDIOM_COUNTS.get(module, {}) for spelling in idiom.spellings]
        assert not any(spelling in rewritten for spelling in gone), module


def test_another_version_is_an_error(monkeypatch):
    monkeypatch.setattr(registry, "PINNED", "0.16.2")
    with pytest.raises(ImportError, match=r"0\.16\.1 is installed, the patches are for 0\.16\.2"):
        registry.check()


PROBE = """
import sys
from importlib.machinery import PathFinder
try:
    import megatron_patches
except ImportError as error:
    print(error)
print([name for name in sys.modules if name.startswith("megatron.core")])
print([finder for finder in sys.meta_path if "megatron_patches" in type(finder).__module__ + str(finder)])
"""


def test_nothing_is_patched_if_one_patch_does_not_match(tmp_path):
    """Edits one line in a real copy of megatron-core, in a new process: the import fails, and no hook is installed."""
    shutil.copytree(UPSTREAM / "megatron", tmp_path / "megatron", ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    edited = tmp_path / "megatron/core/pipeline_parallel/schedules.py"
    edited.write_text(edited.read_text().replace("torch.clamp(num_tokens, min=1)", "num_tokens.clamp(min=1)"))
    command = [sys.executable, "-c", PROBE]
    paths = {"PYTHONPATH": f"{tmp_path}:{ROOT}", "PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    out = subprocess.run(command, env=paths, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    message, loaded, hooks = out.strip().splitlines()
    assert message.startswith("patch global-loss: megatron.core.pipeline_parallel.schedules no longer contains")
    assert loaded == hooks == "[]"


def test_every_row_points_at_the_right_line():
    rows = {row["name"]: row for row in registry.report()}
    assert len(rows) == len(registry.REPLACEMENTS) + len(hook.patched_modules())
    for replacement in registry.REPLACEMENTS:
        file, _, number = rows[replacement.name]["upstream"].rpartition(":")
        text = (UPSTREAM / file).read_text()
        assert replacement.expects[0] in text.splitlines()[int(number) - 1], replacement.name
        assert text.count(replacement.expects[0]) == 1, f"{replacement.name}: more than one line matches"
    for row in rows.values():
        assert row["version"] == registry.PINNED
        assert row["reason"]
        file, _, numbers = row["upstream"].rpartition(":")
        count = len((UPSTREAM / file).read_text().splitlines())
        assert all(0 < int(number) <= count for number in numbers.split(","))


def test_every_replacement_exists():
    for replacement in registry.REPLACEMENTS:
        module, _, name = replacement.ours.partition(" ")[0].rpartition(".")
        if module == "megatron_patches":  # a module by itself
            module, name = replacement.ours.partition(" ")[0], "__doc__"
        assert hasattr(importlib.import_module(module), name), replacement.ours


def test_the_page_lists_the_same_patches_at_the_same_lines():
    page = (ROOT / "docs" / "patches.md").read_text()
    for replacement in registry.REPLACEMENTS:
        place = f"{replacement.module.removeprefix('megatron.core.').replace('.', '/')}.py"
        assert f"| `{replacement.name}` | `{place}:{registry.line_of(replacement)}`" in page, replacement.name


def test_docstrings_point_at_lines_that_exist():
    """Checks that every `<file>.py:<line>` in our docstrings is a line of the installed megatron-core."""
    for path in sorted((ROOT / "megatron_patches").rglob("*.py")):
        for file, number in re.findall(r"((?:\w+/)+\w+\.py):(\d+)", path.read_text()):
            upstream = UPSTREAM / "megatron/core" / file
            assert upstream.is_file(), f"{path}: {file}"
            assert int(number) <= len(upstream.read_text().splitlines()), f"{path}: {file}:{number}"
