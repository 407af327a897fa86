"""Every file, module, name, setting and command that the documentation mentions exists."""

import ast
import re
import shlex
from functools import lru_cache
from pathlib import Path

import pytest
from cli import ROOT

from pipeline.common.errors import UsageError
from pipeline.run.door import STAGES, preset_names
from pipeline.settings.schema import SECTIONS, field_type

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")])
TOP = (
    "pipeline",
    "megatron_patches",
    "stages",
    "tests",
    "configs",
    "docs",
    "examples",
    "requirements",
    ".ci",
    ".github",
)
CODE = ("pipeline", "megatron_patches", "stages")
FILE = re.compile(r"[\w./-]+\.(?:py|md|yaml|yml|txt|toml|sh|jsonl?|html|css|js)")
HISTORY = {"CHANGELOG.md"}
"""Pages that also name what is no longer there."""
THEIRS = {"my_losses.py", "my.yaml", "my-model.yaml", "mine.jsonl", "held_out.jsonl", "more.parquet", "aime24.jsonl"}
"""Files that a reader has, not we."""


def code_of(page: Path) -> tuple[list[str], list[str]]:
    """Inline code, and fenced blocks, of a page."""
    text = page.read_text("utf-8")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    text = re.sub(r"^```\w*\n.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.findall(r"`([^`\n]+)`", text), blocks


@lru_cache
def tracked_names() -> frozenset[str]:
    """Names of all source, preset and page files."""
    return frozenset(path.name for top in TOP for path in (ROOT / top).rglob("*") if path.is_file())


@lru_cache
def defined(path: Path) -> frozenset[str]:
    """What a module defines or imports at its top, and `Class.member` for what its classes hold."""
    found = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            members = (
                m.name if isinstance(m, ast.FunctionDef) else getattr(getattr(m, "target", m), "id", "")
                for m in node.body
            )
            found |= {f"{node.name}.{name}" for name in members}
    return frozenset(found)


def names_module(dotted: str) -> bool:
    """True if `dotted` is a module of ours, or a name within one."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        base, rest = ROOT.joinpath(*parts[:end]), ".".join(parts[end:])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return not rest or rest in defined(path)
    return ROOT.joinpath(*parts).is_dir()


def wrong_reference(code: str) -> str | None:
    """What is wrong with a piece of inline code, if it names something of ours; None if it does not or is right."""
    if any(sign in code for sign in "<>*{ ") or code in THEIRS or code.startswith(("runs/", "/", "~", "http")):
        return None
    path = code.partition(":")[0].rstrip("/")
    if path.split("/")[0] in TOP and "/" in path:
        return None if (ROOT / path).exists() else f"no file {path}"
    if re.fullmatch(r"[\w.-]+\.py", path):
        return None if path in tracked_names() else f"no file of the name {path}"
    dotted = re.match(r"[A-Za-z_][\w.]*\.\w+(?=$|[=(:])", code)
    if not dotted:
        return None
    name = dotted[0]
    if name.split(".")[0] in CODE:
        return None if names_module(name) else f"no module or name {name}"
    if name.split(".")[0] in SECTIONS and not FILE.fullmatch(name):
        return wrong_key(name)
    stem, _, rest = name.partition(".")
    modules = [path for top in CODE for path in (ROOT / top).rglob(f"{stem}.py")]  # `policy_model.PolicyModel`
    if (
        modules
        and not FILE.fullmatch(name)
        and not any(rest in (name, name.partition(".")[2]) for path in modules for name in defined(path))
    ):
        return f"no module {stem} has {rest}"
    return None


def wrong_key(key: str) -> str | None:
    try:
        field_type(key)
    except UsageError:
        return f"no setting {key}"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_mentions_exists(page):
    inline, blocks = code_of(page)
    wrong = [] if page.name in HISTORY else [problem for code in inline if (problem := wrong_reference(code))]
    for block in blocks:
        for line in block.replace("\\\n", " ").splitlines():
            wrong += wrong_command(line)
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text("utf-8")):
        if not target.startswith("http") and not (page.parent / target).exists():
            wrong.append(f"no file {target}")
    assert not wrong


def wrong_command(line: str) -> list[str]:
    """What is wrong with the keys and names of a `bash run.sh` command."""
    if "bash run.sh" not in line or "<" in line or "[" in line.partition("run.sh")[2]:
        return []
    words = shlex.split(line.partition("run.sh")[2], comments=True)
    wrong = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or value in ("...", "$stage"):
            continue
        if "." in key and (problem := wrong_key(key)):
            wrong.append(problem)
        if key == "stage" and value not in STAGES:
            wrong.append(f"no stage {value}")
        own = value.endswith(".yaml") or value.startswith("/")  # a file or folder of the reader
        if key == "model" and not own and value not in preset_names("model"):
            wrong.append(f"no model {value}")
    return wrong


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("pipeline/rl/judging.py", "no file pipeline/rl/judging.py"),
        ("judging.py", "no file of the name judging.py"),
        ("pipeline.rl.collector.Batch", "no module or name pipeline.rl.collector.Batch"),
        ("pipeline.rl.experience.Experience.group", "no module or name pipeline.rl.experience.Experience.group"),
        ("policy_model.PolicyModl", "no module policy_model has PolicyModl"),
        ("algo.apha=0.3", "no setting algo.apha"),
        ("pipeline.rl.collector.StepBatch", None),
        ("pipeline.rl.experience.Experience.of", None),
        ("algo.alpha=0.3", None),
        ("sft.phases.0.steps", None),
        ("torch.distributed.run", None),
    ],
)
def test_a_wrong_reference_is_found(code, said):
    assert wrong_reference(code) == said


def test_every_page_is_in_the_index():
    index = (ROOT / "docs" / "README.md").read_text("utf-8")
    assert [
        page.name for page in (ROOT / "docs").glob("*.md") if f"({page.name})" not in index and page.name != "README.md"
    ] == []


def test_the_page_of_rooms_has_every_room_of_the_import_table():
    """tests/test_rooms.py holds the imports; here the page is held to its table."""
    table = ast.parse((ROOT / "tests" / "test_rooms.py").read_text("utf-8"))
    (rooms,) = (
        ast.literal_eval(node.value)
        for node in table.body
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "MAY_IMPORT"
    )
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    for room, allowed in rooms.items():
        if room in ("megatron_patches", "stages"):
            continue
        (row,) = re.findall(rf"^\| `{room}(?:\.py)?` \|.*\| ([^|]*) \|$", page, re.MULTILINE)
        assert row.replace(",", "").split() == (allowed.split() or ["nothing"]), room
