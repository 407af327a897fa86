"""A run's record of its settings, `runs/<name>/config.yaml`: how it is kept, and how a later command starts from it."""

from pathlib import Path
from typing import Any

import yaml

from pipeline.common.errors import InputError
from pipeline.common.files import write_text
from pipeline.run.catalog import STAGES, Job, within
from pipeline.settings import Evaluate, Layout
from pipeline.settings.ready_sets import sets_of
from pipeline.settings.schema import load_yaml

Tree = dict[str, Any]
NOT_KEPT = ("stage", "force", "dry_run")
"""What belongs to one command and not to the run."""
NAMES = ("model_name", "algo_name", "data_name", "cluster_name", "name")


def read(path: Path) -> Tree:
    """The settings of a record, without what belongs to the command that wrote it.

    Raises:
        InputError: the file cannot be read, or is no record.
    """
    try:
        tree = load_yaml(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as the record of a run: {error}") from error
    if not isinstance(tree, dict) or not all(isinstance(tree.get(name), str) for name in NAMES):
        raise InputError(
            f"{path} is no record of a run (runs/<name>/config.yaml). A preset is given as model=, algo=, data= or cluster="
        )
    tree = {key: value for key, value in tree.items() if key not in NOT_KEPT}
    try:
        return _without_derived(tree)
    except (ValueError, TypeError, KeyError, AttributeError) as error:  # it was changed by hand
        raise InputError(f"{path} is damaged: its layout or evaluation sets cannot be read ({error}).") from error


def _without_derived(tree: Tree) -> Tree:
    """Without what follows from other keys, so that changing those has its effect."""
    model, cluster = tree.get("model"), tree.get("cluster")
    if isinstance(model, dict) and isinstance(cluster, dict) and isinstance(tree.get("layout"), dict):
        layouts = {int(nodes): layout for nodes, layout in (model.get("layouts") or {}).items()}
        chosen = Layout.model_validate(layout_for(layouts, int(cluster.get("nnodes", 1)))).model_dump()
        own = {key: value for key, value in tree["layout"].items() if chosen.get(key) != value}
        tree = {key: value for key, value in tree.items() if key != "layout"} | ({"layout": own} if own else {})
    data = tree.get("data")
    if isinstance(data, dict) and data.get("eval"):
        named = sets_of(data["eval"], data.get("eval_folder"))
        paths = {name: path for name, path in data["eval_path"].items() if name not in named}
        tree = tree | {"data": data | {"eval_path": paths}}
    return tree


def layout_for(layouts: dict[int, Tree], nnodes: int) -> Tree:
    """The entry of a model's `layouts` with the largest number of nodes that is there; empty if all are above it."""
    fitting = [nodes for nodes in layouts if nodes <= nnodes]
    return layouts[max(fitting)] if fitting else {}


def write(path: Path, job: Job) -> None:
    """Keeps the settings of a job in its run's record.

    A stage is often started with fewer keys than the stages before it. Sections that it does not read stay as the stage
    that reads them had them.
    """
    new = job.settings.model_dump(mode="json")
    new["evaluate"]["checkpoint"] = Evaluate().checkpoint  # stage=all asks for several; a later command chooses again
    if path.exists():
        if job.settings.evaluate.other_sets:  # of this command alone
            return
        if not (job.outputs and job.stage.settings):
            return
        new = _merged(_old(path), new, "", job.stage.settings)
    write_text(path, yaml.safe_dump(new, sort_keys=False, allow_unicode=True))


def _old(path: Path) -> Tree:
    """What is there; nothing if it is damaged."""
    try:
        tree = load_yaml(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


OWNED = frozenset(key for stage in STAGES.values() for key in stage.settings)
"""Sections and keys that some stage's result depends on."""


def _merged(old: Any, new: Any, path: str, read_now: tuple[str, ...]) -> Any:
    """`new`, but `old` for what only other stages read."""
    if within(path, read_now):
        return new
    if within(path, OWNED) and old is not None and not any(key.startswith(f"{path}.") for key in read_now):
        return old
    if isinstance(new, dict):
        before = old if isinstance(old, dict) else {}
        inner = f"{path}." if path else ""
        return {key: _merged(before.get(key), value, f"{inner}{key}", read_now) for key, value in new.items()}
    return new
