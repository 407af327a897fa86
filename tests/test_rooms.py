"""Which room may import which: the arrows of docs/architecture.md, read from the code."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
TOP = ("pipeline", "megatron_patches", "stages")

MAY_IMPORT = {
    "pipeline/common": "",
    "pipeline/settings": "common",
    "pipeline/stage": "common settings",
    "pipeline/tracking": "common",
    "pipeline/verify": "common",
    "pipeline/objectives": "common settings",
    "pipeline/rollout": "common settings tracking",
    "pipeline/report": "common tracking",
    "pipeline/compare": "common tracking report",
    "pipeline/run": "common settings stage",
    "pipeline/data": "common settings stage tracking verify rollout",
    "pipeline/models": "common settings stage data",
    "pipeline/sft": "common settings data",
    "pipeline/rl": "common settings tracking verify objectives rollout",
    "megatron_patches/upstream": "",
    "megatron_patches/policy_head": "",
    "megatron_patches/parallel": "common settings",
    "megatron_patches/model": "parallel common settings",
    "megatron_patches/session": "model parallel common settings stage",
    "megatron_patches/training": "model policy_head parallel common settings objectives rl",
    "megatron_patches/engines": "training model parallel common settings rollout rl",
    "megatron_patches/rehearsal": "upstream training model parallel common settings rl",
    "megatron_patches": "upstream policy_head",
    "stages": "*",
}
"""Room -> the other rooms of ours that it may import. `megatron_patches` is the package's own __init__.py."""

BEFORE_VENV = (
    "pipeline/run/door.py",
    "pipeline/run/environment.py",
    "pipeline/common/benches.py",
    "pipeline/common/names.py",
)
"""run.sh starts these with the system's Python, before anything is installed."""


def room_of(parts: tuple[str, ...]) -> str:
    """pipeline.rl.collector -> pipeline/rl; a loose module is a room by itself."""
    return "stages" if parts[0] == "stages" else "/".join(parts[:2])


def imports_of(path: Path) -> list[str]:
    """Modules that a file imports, anywhere in it; `from package import name` counts as package.name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def files() -> list[Path]:
    return [path for top in TOP for path in sorted((ROOT / top).rglob("*.py"))]


def test_a_room_imports_only_what_its_row_allows():
    wrong = []
    for path in files():
        parts = path.relative_to(ROOT).with_suffix("").parts
        room = "megatron_patches" if parts == ("megatron_patches", "__init__") else room_of(parts)
        for name in imports_of(path):
            target = name.split(".")
            other = room_of(tuple(target))
            if target[0] not in TOP or other == room or MAY_IMPORT[room] == "*":
                continue
            if target[0] == "stages" or other.rpartition("/")[2] not in MAY_IMPORT[room].split():
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_every_room_has_a_row():
    rooms = {room_of(path.relative_to(ROOT).with_suffix("").parts) for path in files()}
    assert {room for room in rooms if not room.endswith("__init__")} == set(MAY_IMPORT) - {"megatron_patches"}


@pytest.mark.parametrize("name", BEFORE_VENV)
def test_what_runs_before_the_environment_needs_the_standard_library_alone(name):
    ours = {"pipeline.common.benches", "pipeline.common.names"}
    for module in imports_of(ROOT / name):
        top = module.split(".")[0]
        assert top in sys.stdlib_module_names or module.rpartition(".")[0] in ours, f"{name} imports {module}"


def test_the_run_room_never_imports_torch_at_import():
    for path in sorted((ROOT / "pipeline" / "run").glob("*.py")):
        if path.name in ("torchrun.py", "loopback.py", "meeting.py"):
            continue  # they are torchrun, in its own process
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
                assert not any(name.split(".")[0] == "torch" for name in names), path
