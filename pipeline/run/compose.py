"""Composes the configuration of a run and checks it.

Later sources win: the settings' defaults, the presets that a model preset names, the model preset itself, presets named on
the command line (algo, data, cluster), SLURM's environment, keys on the command line. Without model=, the record of an
earlier run takes the place of the model preset and of what it names (`name=<run>`, or `config=<its config.yaml>`). A preset
file has settings sections as its top-level keys (`model:`, `layout:`, `rl:`, ...); a model preset also says which other
presets go with it (`defaults: {algo: etr, data: math, cluster: gpu8}`).
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from pipeline.common.errors import InputError, UsageError, UserError
from pipeline.common.names import nearest, unknown
from pipeline.run import machines, manifests, record
from pipeline.run.door import GROUPS, ROOT, check_names, is_folder, preset_names, record_of, typed
from pipeline.run.shapes import SHAPE_KEYS, count
from pipeline.settings import Settings
from pipeline.settings.dead import TYPED, dead_keys
from pipeline.settings.derive import derive
from pipeline.settings.ready_sets import READY_SETS, is_named, sets_of
from pipeline.settings.schema import (
    SECTIONS,
    choices,
    default_of,
    describe,
    field_type,
    load_yaml,
    parse,
    split_key,
    unknown_key,
)

SHORT = {
    "what": "bench.what", "check": "doctor.check", "step": "replay.step", "tracking": "tracking.to",
    "rehearse": "plan.rehearse",
    "search": "plan.search",
}  # fmt: skip
"""Keys that may be written shorter on the command line."""
SLURM = "SLURM's environment"
"""Origin of what SLURM says of the cluster."""
DERIVED = "the model folder's config.json"
"""Origin of settings that were derived from a Hugging Face folder."""
RECORDED = "the recorded settings of the run"
"""Origin of settings that an earlier command gave to the run."""
TOP = ("name", "runs_dir", "seed", "force", "dry_run")
PATHS = ("data.path", "data.sft_path", "data.eval", "data.eval_folder", "model.path", "evaluate.checkpoint",
         "export.checkpoint", "bench.peer_python", "bench.compare", "report.peer_python", "plan.lengths")  # fmt: skip
"""Settings that hold files or folders; on the command line they are relative to the folder it was typed in."""


@dataclass
class Composed:
    """Plain nested values, and where each dotted key comes from."""

    values: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    """All origins, the latest last."""

    def merge(self, tree: dict[str, Any], origin: str, prefix: str = "") -> None:
        """Lay `tree` over what is there, key by key; lists are replaced whole."""
        if origin not in self.sources:
            self.sources.append(origin)
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
        *parents, last = split_key(path)
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
        tree = load_yaml(path.read_text("utf-8"), _UniqueKeys)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise UsageError(f"{path} is not a YAML preset: {error}") from error
    tree = {} if tree is None else tree
    if not isinstance(tree, dict):
        raise UsageError(f"{path}: a preset holds sections ({', '.join(SECTIONS)}), not {type(tree).__name__}.")
    if "model_name" in tree:
        raise UsageError(f"{path} is the record of a run. Give it as config={path}, without model=.")
    for section, content in tree.items():
        if section == "defaults" and allow_defaults and isinstance(content, dict):
            wrong = [name for name in content if name not in GROUPS[1:]]
            if wrong:
                raise UsageError(f"{path}: defaults.{wrong[0]} is no preset group. Allowed: {', '.join(GROUPS[1:])}")
            for name, preset in content.items():
                if not isinstance(preset, str):
                    raise UsageError(
                        f"{path}: defaults.{name}={preset!r} is no preset name. Allowed: {', '.join(preset_names(name))}"
                    )
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
    """The settings that a command line means; `stage` replaces the one in it (for `stage=all`).

    Raises:
        UsageError: wrong key, value, name or combination, or a key without effect, each with what is allowed.
        InputError: the user's preset file cannot be read.
    """
    settings, dead = _composed(words, stage)
    if dead:
        raise UsageError("\n".join(dead.values()))
    return settings


def dead_words(words: list[str]) -> dict[str, str]:
    """Keys of a command line that have no effect -> the message with which `compose` refuses them."""
    return _composed(words, None)[1]


def _composed(words: list[str], stage: str | None) -> tuple[Settings, dict[str, str]]:
    """The settings, and the user's keys without effect."""
    given = _given(words)
    stage = stage or given["stage"]
    recorded = record_of(given)
    composed, short, defaults = _from_record(recorded, given) if recorded else _from_presets(words, given)
    on_cpu = composed.values.get("cluster", {}).get("device") == "cpu"
    for key, value in machines.slurm(dict(os.environ)).items():
        if not (on_cpu and key == "devices_per_node"):  # SLURM counts GPUs, which a CPU preset does not want
            composed.merge({"cluster": {key: value}}, SLURM)
    for key, text in given.items():
        if key in GROUPS or key in ("stage", "config"):
            continue
        composed.merge(_nested(key, _absolute(key, parse(key, text))), TYPED)
    values = composed.values
    values["layout"] = _chosen_layout(values)
    values |= {"stage": stage} | {f"{group}_name": short[group] for group in GROUPS}
    values.setdefault("name", _run_name(short, defaults, values.get("seed", 0)))
    if recorded is not None and given["stage"] == "evaluate":
        _measure_other_sets(values, given)
    _add_usual_samples(values, composed.origin)
    settings = _validated(_without_stale_count(values, composed), composed.origin)
    _check_parameters(settings, composed.origin)
    if given["stage"] == "evaluate" and settings.data.only_evaluates and not settings.evaluate.other_sets:
        # The model is measured as it is: there is nothing to warm it up on.
        settings = settings.model_copy(update={"sft": settings.sft.model_copy(update={"enabled": False})})
    own = {key: origin for key, origin in composed.origin.items() if _is_users(origin)}
    dead = dead_keys(settings, own)
    in_files: set[str] = set()
    for file in {own[key] for key in dead} - {TYPED}:
        keys = {key for key in dead if own[key] == file}
        alone = [word for word in words if word.startswith("stage=") or _names_file(word, file)]
        in_files |= keys if alone == words else keys & _dead_in_files(alone, stage, keys)
    return settings, {key: why for key, why in dead.items() if own[key] == TYPED or key in in_files}


Base = tuple[Composed, dict[str, str], dict[str, str]]
"""What the command line is laid over, the short name of each preset, and the presets that the model preset names."""


def _from_presets(words: list[str], given: dict[str, str]) -> Base:
    chosen = {"model": given.get("model", "tiny")}
    model_tree = derived_preset(words)
    model_origin = DERIVED
    if model_tree is None:
        model_file = _preset_file("model", chosen["model"])
        model_tree, model_origin = read_preset(model_file, allow_defaults=True), _label(model_file)
    defaults = model_tree.pop("defaults", {})
    chosen |= {group: given.get(group, defaults.get(group)) for group in GROUPS[1:] if group in {**given, **defaults}}
    files = {group: _preset_file(group, name) for group, name in chosen.items() if group != "model"}
    composed = Composed()
    for group in sorted(set(files) - set(given), key=GROUPS.index):  # those that the model preset names
        composed.merge(read_preset(files[group]), _label(files[group]))
    composed.merge(model_tree, model_origin)
    for group in sorted(set(files) & set(given), key=GROUPS.index):
        composed.merge(read_preset(files[group]), _label(files[group]))
    return composed, {group: _short_name(chosen.get(group, "none")) for group in GROUPS}, defaults


def _from_record(path: Path, given: dict[str, str]) -> Base:
    """A run's recorded settings. A preset that the command line names replaces its whole section."""
    tree = record.read(path)
    short = {group: str(tree.pop(f"{group}_name")) for group in GROUPS}
    named = [group for group in GROUPS[1:] if group in given]
    composed = Composed()
    composed.merge({key: value for key, value in tree.items() if key not in named}, RECORDED)
    for group in named:
        file = _preset_file(group, given[group])
        composed.merge(read_preset(file), _label(file))
        short[group] = _short_name(given[group])
    return composed, short, {}


def _is_users(origin: str) -> bool:
    """Whether the user gave a key with this command: on its line, or in a preset file of their own."""
    return origin not in (SLURM, DERIVED, RECORDED) and not origin.startswith("configs/")


def _measure_other_sets(values: dict[str, Any], given: dict[str, str]) -> None:
    """Where the command names evaluation sets and its run is prepared with others: measures those, and leaves the run as it is.

    A run that has no base model yet is prepared with the sets that the command names.
    """
    data, evaluate = values.get("data", {}), values.setdefault("evaluate", {})
    prefix = "data.eval_path."
    typed_names = [key.removeprefix(prefix) for key in given if key.startswith(prefix)]
    entries = data.get("eval", []) if "data.eval" in given else []
    if not (entries or typed_names):
        return
    root = ROOT / str(values.get("runs_dir", "runs")) / str(values["name"])
    prepared = (manifests.load(root, "preprocess") or {}).get("config", {})
    if manifests.load(root, "convert") is None or not isinstance(entries, list):
        return
    try:
        asked = sets_of([str(entry) for entry in entries], data.get("eval_folder"))
    except ValueError:
        return  # validation names the entry
    asked |= {name: data["eval_path"][name] for name in typed_names}
    own = {key.removeprefix(prefix): path for key, path in prepared.items() if key.startswith(prefix)}
    if asked == own:
        return
    k_of = {name: k for name, k in evaluate.get("k_of", {}).items() if name in asked}
    values["data"] = data | {"source": "files", "path": [], "sft_path": [], "eval": entries, "eval_path": asked}
    evaluate |= {"other_sets": True, "k_of": k_of}


def _add_usual_samples(values: dict[str, Any], origin: dict[str, str]) -> None:
    """Gives each known set that `data.eval` names its usual number of samples, unless the user gave `evaluate.k`."""
    entries, evaluate = values.get("data", {}).get("eval", []), values.setdefault("evaluate", {})
    if not isinstance(entries, list) or not isinstance(evaluate.get("k_of", {}), dict):
        return  # validation names the value
    usual = {name: ready.k for name, ready in READY_SETS.items() if name in entries}
    k_of = usual | evaluate.get("k_of", {})
    if _is_users(origin.get("evaluate.k", RECORDED)):
        k_of = {name: k for name, k in k_of.items() if _is_users(origin.get(f"evaluate.k_of.{name}", RECORDED))}
    if k_of or "k_of" in evaluate:
        evaluate["k_of"] = k_of


def derived_preset(words: list[str]) -> dict[str, Any] | None:
    """The preset of the Hugging Face folder that `model=` names, from its config.json; None if it names no folder.

    Raises InputError if the folder cannot be read, or holds a model that the actor cannot compute.
    """
    model = next((word.removeprefix("model=") for word in reversed(words) if word.startswith("model=")), "")
    if not is_folder(model):
        return None
    cpu = "cluster=local" in words or "cluster.device=cpu" in words
    return derive(typed(model).absolute(), 0 if cpu else machines.gpu_count())


def _names_file(word: str, file: str) -> bool:
    """Whether an argument names the user's preset file that is labelled `file`, or the user's model file, without which
    another file makes no configuration."""
    key, _, value = word.partition("=")
    if key not in GROUPS or not value.endswith((".yaml", ".yml")):
        return False
    return key == "model" or _label(_preset_file(key, value)) == file


def _dead_in_files(words: list[str], stage: str, keys: set[str]) -> set[str]:
    """Those of a preset file's `keys` that have no effect by the file alone. What else is on the command line may turn off
    what a file configures (`sft.enabled=false`, `algo=grpo`, another file): a later source wins, and that is no mistake."""
    try:
        return set(_composed(words, stage)[1])
    except UserError:  # the files alone make no configuration
        return keys


def _given(words: list[str]) -> dict[str, str]:
    """The command line as key -> text, names checked, short keys written out."""
    problem = check_names(words)
    if problem:
        raise UsageError(problem)
    given: dict[str, str] = {}
    for word in words:
        key, _, text = word.partition("=")
        full = SHORT.get(key, key)
        if "." not in full and full not in (*GROUPS, *TOP, "stage", "config"):
            if full in SECTIONS:
                raise UsageError(f"{word}: {full} is a section; set one of its keys, as in {full}.<key>=...")
            raise UsageError(unknown_key(full))
        given[full] = text
    return given


def _preset_file(group: str, name: str) -> Path:
    if name.endswith((".yaml", ".yml")):
        own = typed(name)
        return own if own.exists() else ROOT / name
    if name not in preset_names(group):
        raise UsageError(unknown(group, name, preset_names(group)))
    return ROOT / "configs" / group / f"{name}.yaml"


def _label(file: Path) -> str:
    return str(file.relative_to(ROOT)) if file.is_relative_to(ROOT) else str(file)


def _short_name(name: str) -> str:
    """A preset's name, a preset file's without its ending, or a folder's."""
    return Path(name).stem if name.endswith((".yaml", ".yml")) else Path(name).name


def _run_name(short: dict[str, str], defaults: dict[str, str], seed: Any) -> str:
    parts = [short["model"]]
    if short["algo"] != _short_name(defaults.get("algo", "none")):
        parts.append(short["algo"])
    if str(seed) != "0":
        parts.append(f"seed{seed}")
    return "-".join(parts)


def _absolute(key: str, value: Any) -> Any:
    """Typed paths are relative to the user's folder, those in presets to the project's."""
    if key == "runs_dir":
        return str(typed(value).absolute())
    if key == "algo.import_path" and isinstance(value, str) and ".py:" in value:
        file, _, name = value.rpartition(":")
        return f"{_absolute('model.path', file)}:{name}"
    if not (key in PATHS or key.startswith("data.eval_path.")):
        return value
    if isinstance(value, list):
        return [_absolute(key, item) for item in value]
    if key == "data.eval" and isinstance(value, str) and is_named(value) and not typed(value).exists():
        return value
    if not isinstance(value, str):
        return value
    path = typed(value).absolute()
    # `evaluate.checkpoint=before` is a word and `plan.lengths=tiny` a run's name, not paths
    is_path = path.exists() or not key.endswith((".checkpoint", ".lengths"))
    return str(path) if is_path and not (ROOT / value).exists() else value


def _nested(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(split_key(key)):
        value = {part: value}
    return value


def _leaves(tree: dict[str, Any], prefix: str) -> list[str]:
    keys: list[str] = []
    for key, value in tree.items():
        keys += _leaves(value, f"{prefix}{key}.") if isinstance(value, dict) and value else [f"{prefix}{key}"]
    return keys


def _chosen_layout(values: dict[str, Any]) -> dict[str, Any]:
    """The model's layout for this many nodes, with `layout.*` laid over it."""
    own = values.get("layout", {})
    try:
        layouts = {int(nodes): dict(layout) for nodes, layout in values.get("model", {}).get("layouts", {}).items()}
        nnodes = int(values.get("cluster", {}).get("nnodes", 1))
    except (AttributeError, TypeError, ValueError):
        return own  # validation names the value
    return record.layout_for(layouts, nnodes) | own


def _without_stale_count(values: dict[str, Any], composed: Composed) -> dict[str, Any]:
    """`values` without a preset's `model.parameters` if a later source has changed the shape that it counts."""
    if "model.parameters" not in composed.origin:
        return values
    later = composed.sources[composed.sources.index(composed.origin["model.parameters"]) + 1 :]
    if not any(composed.origin.get(key) in later for key in SHAPE_KEYS):
        return values
    return values | {"model": {key: value for key, value in values["model"].items() if key != "parameters"}}


def _check_parameters(settings: Settings, origin: dict[str, str]) -> None:
    """Raises `UsageError` if `model.parameters` is not the shape's count."""
    stated, found = settings.model.parameters, count(settings.model).total
    if stated not in (None, found):
        raise UsageError(
            f"model.parameters={stated} (from {origin['model.parameters']}), but the shape has {found} parameters. Correct"
            " the shape (layers, widths, heads, vocabulary, experts), or remove model.parameters."
        )


def _validated(values: dict[str, Any], origin: dict[str, str]) -> Settings:
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise UsageError("\n".join(_explain(detail, origin) for detail in error.errors())) from error


def _explain(detail: Any, origin: dict[str, str]) -> str:
    key = ".".join(str(part) for part in detail["loc"])
    where = origin.get(key) or next((place for k, place in origin.items() if key.startswith(k + ".")), None)
    if detail["type"] == "value_error":  # a rule of the section, which names its keys itself
        return str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "missing":
        return f"{key} is missing. Allowed: {describe(key)}"
    if detail["type"] == "extra_forbidden":
        return unknown_key(key) + (f" (from {where})" if where else "")
    guess = nearest(str(detail["input"]), choices(key))
    hint = f" Did you mean {key}={guess}?" if guess else ""
    return f"{key}={detail['input']}" + (f" (from {where})" if where else "") + f": allowed is {describe(key)}.{hint}"


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which a key given twice is an error; PyYAML uses the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{key} is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)
