"""Composes the configuration of a run and checks it.

Settings' defaults < configs/stage/<stage>.yaml < model preset < algo < data < cluster preset < command line. A preset
file has settings sections as its top-level keys (`model:`, `layout:`, `rl:`, ...); a model preset also says which other
presets go with it (`defaults: {algo: etr, data: math, cluster: gpu8}`).
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.common.errors import InputError, UsageError
from pipeline.run import machines
from pipeline.run.door import GROUPS, ROOT, check_names, preset_names, unknown
from pipeline.settings import Settings
from pipeline.settings.schema import SECTIONS, default_of, describe, field_type, parse, unknown_key

SHORT = {"what": "bench.what"}
"""Keys that may be written shorter on the command line."""
TOP = ("name", "runs_dir", "seed", "force", "dry_run")
PATHS = ("data.path", "data.sft_path", "model.path", "evaluate.checkpoint", "export.checkpoint", "bench.peer_python",
         "bench.compare")  # fmt: skip
"""Settings that hold files or folders; on the command line they are relative to the folder it was typed in."""


@dataclass
class Composed:
    """Plain nested values, and for each dotted key where it came from."""

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)

    def merge(self, tree: dict[str, Any], origin: str, prefix: str = "") -> None:
        """Lay `tree` over what is there, key by key; lists are replaced whole."""
        for key, value in tree.items():
            path = f"{prefix}{key}"
            if isinstance(value, dict):
                self.merge(value, origin, path + ".")
                if not value:
                    self._place(path, {}, origin)
            else:
                self._place(path, value, origin)

    def _place(self, path: str, value: Any, origin: str) -> None:
        node: Any = self.values
        walked: list[str] = []
        *parents, last = path.split(".")
        for part in parents:
            walked.append(part)
            key: Any = int(part) if isinstance(node, list) else part
            if isinstance(node, list) and key >= len(node):
                raise UsageError(f"{path}: {'.'.join(walked[:-1])} has {len(node)} entries, counted from 0.")
            if isinstance(node, dict) and not isinstance(node.get(key), dict | list):
                default = default_of(".".join(walked))  # a dict or list is laid over its default, not over nothing
                node[key] = default if isinstance(default, dict | list) else {}
            node = node[key]
        node[int(last) if isinstance(node, list) else last] = value
        self.origin[path] = origin


def read_preset(path: Path, allow_defaults: bool = False) -> dict[str, Any]:
    """The sections of a preset file, every key checked to exist.

    Raises:
        UsageError: not YAML, a key given twice, or a key that does not exist.
        InputError: the file cannot be read.
    """
    try:
        tree = yaml.load(path.read_text("utf-8"), Loader=_UniqueKeys)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not a YAML preset: {error}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: a preset holds sections ({', '.join(SECTIONS)}), not {type(tree).__name__}.")
    for section, content in tree.items():
        if section == "defaults" and allow_defaults and isinstance(content, dict):
            wrong = [name for name in content if name not in GROUPS[1:]]
            if wrong:
                raise UsageError(f"{path}: defaults.{wrong[0]} is no preset group. Allowed: {', '.join(GROUPS[1:])}")
        elif section not in SECTIONS:
            raise UsageError(f"{path}: {unknown_key(str(section))}")
        elif not isinstance(content, dict | None):
            raise UsageError(f"{path}: {section} is a section and holds keys, not {content!r}.")
        else:
            for key in _leaves(content or {}, f"{section}."):
                try:
                    field_type(key)
                except UsageError as error:
                    raise UsageError(f"{path}: {error}") from error
    return {section: content for section, content in tree.items() if content is not None}


def compose(words: list[str], stage: str | None = None) -> Settings:
    """The settings that a command line means; `stage` takes the place of the one in it (for `stage=all`).

    Raises:
        UsageError: wrong key, value, name or combination, each with what is allowed.
        InputError: a preset file of the user's own cannot be read.
    """
    given = _given(words)
    stage = stage or given["stage"]
    model = given.get("model", "tiny")
    composed = Composed()
    stage_file = ROOT / "configs" / "stage" / f"{stage}.yaml"
    if stage_file.exists():
        composed.merge(read_preset(stage_file), str(stage_file.relative_to(ROOT)))
    model_file = _preset_file("model", model)
    model_tree = read_preset(model_file, allow_defaults=True)
    defaults = model_tree.pop("defaults", {})
    composed.merge(model_tree, _label(model_file))
    chosen = {"model": model}
    for group in GROUPS[1:]:
        name = given.get(group, defaults.get(group))
        if name is None:
            continue
        chosen[group] = name
        file = _preset_file(group, name)
        composed.merge(read_preset(file), _label(file))
    on_cpu = composed.values.get("cluster", {}).get("device") == "cpu"
    for key, value in machines.slurm(dict(os.environ)).items():
        if not (on_cpu and key == "devices_per_node"):  # SLURM counts GPUs, which a CPU preset does not want
            composed.merge({"cluster": {key: value}}, "SLURM's environment")
    for key, text in given.items():
        if key in GROUPS or key == "stage":
            continue
        composed.merge(_nested(key, _absolute(key, parse(key, text))), "the command line")
    values = composed.values
    values["layout"] = _chosen_layout(values)
    short = {group: _short_name(chosen.get(group, "none")) for group in GROUPS}
    values |= {"stage": stage} | {f"{group}_name": short[group] for group in GROUPS}
    values.setdefault("name", _run_name(short, defaults, values.get("seed", 0)))
    return _validated(values, composed.origin)


def _given(words: list[str]) -> dict[str, str]:
    """The command line as key -> text, names checked, short keys written out."""
    problem = check_names(words)
    if problem:
        raise UsageError(problem)
    given: dict[str, str] = {}
    for word in words:
        key, _, text = word.partition("=")
        full = SHORT.get(key, key)
        if full in given:
            raise UsageError(f"{full} is given twice: {given[full]} and {text}. Keep one.")
        if "." not in full and full not in (*GROUPS, *TOP, "stage"):
            if full in SECTIONS:
                raise UsageError(f"{word}: {full} is a section; set one of its keys, as in {full}.<key>=...")
            raise UsageError(unknown_key(full))
        given[full] = text
    return given


def _preset_file(group: str, name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        typed = Path(os.environ.get("ETR_FOLDER", "."), name)
        return typed if typed.exists() else ROOT / name
    if name not in preset_names(group):
        raise UsageError(unknown(group, name, preset_names(group)))
    return ROOT / "configs" / group / f"{name}.yaml"


def _label(file: Path) -> str:
    return str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)


def _short_name(name: str) -> str:
    return Path(name).stem if name.endswith((".yaml", ".yml")) else name


def _run_name(short: dict[str, str], defaults: dict[str, str], seed: Any) -> str:
    parts = [short["model"]]
    if short["algo"] != _short_name(defaults.get("algo", "none")):
        parts.append(short["algo"])
    if str(seed) != "0":
        parts.append(f"seed{seed}")
    return "-".join(parts)


def _absolute(key: str, value: Any) -> Any:
    """Paths as typed are relative to the user's folder, those in presets to the project's."""
    if key == "runs_dir":
        return str(Path(os.environ.get("ETR_FOLDER", "."), Path(value).expanduser()).absolute())
    if key == "algo.import_path" and isinstance(value, str) and ".py:" in value:
        file, _, name = value.rpartition(":")
        return f"{_absolute('model.path', file)}:{name}"
    if not (key in PATHS or key.startswith("data.eval_path.")):
        return value
    if isinstance(value, list):
        return [_absolute(key, item) for item in value]
    if not isinstance(value, str):
        return value
    typed = Path(os.environ.get("ETR_FOLDER", "."), Path(value).expanduser()).absolute()
    is_path = typed.exists() or not key.endswith(".checkpoint")  # `evaluate.checkpoint=before` is a word, not a path
    return str(typed) if is_path and not (ROOT / value).exists() else value


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _leaves(tree: dict[str, Any], prefix: str) -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        keys += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]
    return keys


def _chosen_layout(values: dict[str, Any]) -> dict[str, Any]:
    """The model's layout for this many nodes, with `layout.*` laid over it."""
    layouts = {str(nodes): layout for nodes, layout in values.get("model", {}).get("layouts", {}).items()}
    try:
        nnodes = int(values.get("cluster", {}).get("nnodes", 1))
        fitting = [nodes for nodes in layouts if int(nodes) <= nnodes]
    except (TypeError, ValueError):
        fitting = []  # validation names the value
    base = layouts[max(fitting, key=int)] if fitting else {}
    return dict(base) | values.get("layout", {})


def _validated(values: dict[str, Any], origin: dict[str, str]) -> Settings:
    try:
        settings = Settings.model_validate(values)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(detail, origin) for detail in error.errors())) from error
    if settings.name in ("", ".", "..") or "/" in settings.name:
        raise UsageError(f"name={settings.name}: a run's name is one folder name, without slashes.")
    return settings


def _explain(detail: Any, origin: dict[str, str]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    where = origin.get(key) or next((place for k, place in origin.items() if key.startswith(k + ".")), None)
    if detail["type"] == "value_error":  # a section's own rule, which names its keys itself
        return str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{key} is missing. Allowed: {describe(key)}"
    if detail["type"] == "extra_forbidden":
        return unknown_key(key) + (f" (from {where})" if where else "")
    return f"{key}={detail['input']}" + (f" (from {where})" if where else "") + f": allowed is {describe(key)}."


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error; PyYAML takes the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
