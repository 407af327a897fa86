"""Manifests: what a finished stage was made of, so that it runs again if that has changed and not otherwise.

`<stage>/manifest.json` holds the settings that the result depends on (flat, so that a change can be named), its inputs
and outputs by hash, and the seconds it took. `<stage>/started.json` holds the settings and inputs at the start, with
which a killed stage's checkpoints were made.
"""

import datetime
import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError, UsageError
from pipeline.common.files import read_json, write_json
from pipeline.run.catalog import HARMLESS, IRRELEVANT, PROMPTS, STAGES, Job, Stage, within
from pipeline.run.imports import source_of
from pipeline.settings import Settings
from pipeline.settings.schema import default_of

WORDS = ("before", "after")
"""Checkpoints of the run itself: the converted base, and the newest of the training."""
TRACKER = "latest_checkpointed_iteration.txt"
"""Megatron's file beside the iterations' folders: the number of the newest."""
WHOLE_FILE = 256 << 20
"""Larger files are hashed by size, modification time, first and last MiB: hashing a 70B model would take minutes."""


def flat(settings: Settings, keys: tuple[str, ...]) -> dict[str, Any]:
    """The chosen sections and keys as dotted key -> plain value, without those that no result depends on."""
    values = settings.model_dump(mode="json")
    found: dict[str, Any] = {}

    def collect(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for name, inner in value.items():
                collect(f"{prefix}.{name}", inner)
        elif prefix not in IRRELEVANT:
            found[prefix] = value

    for key in keys:
        node: Any = values
        for part in key.split("."):
            node = node[part]
        collect(key, node)
    return found


def digest(value: Any) -> str:
    """Hash of anything JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(path: Path) -> str | None:
    """Hash of a file's content or of a folder's files by name; None if there is nothing."""
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return digest([[str(file.relative_to(path)), fingerprint(file)] for file in files])
    if not path.exists():
        return None
    state = path.stat()
    with open(path, "rb") as file:
        if state.st_size <= WHOLE_FILE:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
        head = file.read(1 << 20)
        file.seek(-(1 << 20), 2)
        return hashlib.sha256(f"{state.st_size} {state.st_mtime_ns}".encode() + head + file.read()).hexdigest()[:16]


def locate(root: Path, path: str) -> Path:
    """Path of an output of the catalog; `x@latest` is the iteration that Megatron's tracker file names, or that file if it
    names none."""
    folder, at, _ = path.partition("@")
    if not at:
        return root / path
    try:
        iteration = latest_iteration(root / folder)
    except InputError:
        iteration = None
    return root / folder / (TRACKER if iteration is None else f"iter_{iteration:07d}")


def latest_iteration(folder: Path) -> int | None:
    """The iteration that a checkpoint folder's tracker file names; None without that file.

    Raises:
        InputError: the file cannot be read or holds no number.
    """
    tracker = folder / TRACKER
    try:
        text = tracker.read_text("utf-8", "backslashreplace").strip()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise InputError(f"{tracker} cannot be read ({error.strerror}).") from error
    if not re.fullmatch("[0-9]{1,18}", text):
        there = sorted(path.name for path in folder.glob("iter_*"))
        raise InputError(
            f"{tracker} holds {text[:40]!r}, which is no iteration number. Write the number of the newest iteration into it"
            f" (there are: {', '.join(there) or 'none'}), or run the stage that makes it with force=true."
        )
    return int(text)


def _check_tracker(folder: Path) -> None:
    """Raises InputError if the tracker file of a checkpoint folder is damaged, or names none of the iterations that are there:
    those hold days of work, which the advice to run their stage with force=true would move away."""
    there = sorted(int(path.name[5:]) for path in folder.glob("iter_*") if path.name[5:].isdecimal())
    named = latest_iteration(folder)
    if there and named not in there:
        what = "is missing" if named is None else f"says {named}"
        raise InputError(
            f"{folder} holds iterations {', '.join(map(str, there))}, but {TRACKER} {what}. To use the newest: "
            f"echo {there[-1]} > '{folder / TRACKER}'"
        )


@dataclass(frozen=True)
class State:
    """A job's present settings and inputs."""

    config: dict[str, Any]
    inputs: dict[str, str | None]

    def changed_from(self, old: dict[str, Any]) -> list[str]:
        """What differs from a manifest: `rl.steps 24 -> 80`, or the name of an input.

        A setting that the manifest lacks had its default: it is younger than the manifest. One that no result depends on (any
        more) is left out.
        """
        config = {key: value for key, value in old.get("config", {}).items() if not within(key, IRRELEVANT)}
        before = {key: config.get(key, default_of(key)) for key in {*config, *self.config}}
        changes = [
            f"{key} {_short(before[key])} -> {_short(self.config.get(key))}"
            for key in sorted(before)
            if before[key] != self.config.get(key)
        ]
        inputs = old.get("inputs", {})
        return changes + [
            f"{name} has changed"
            for name in sorted({*inputs, *self.inputs})
            if inputs.get(name) != self.inputs.get(name)
        ]


def state_of(job: Job, root: Path) -> State:
    """Hashes what the job would read: earlier stages' outputs by their manifests, the user's files by content."""
    inputs: dict[str, str | None] = {}
    for name in job.after:
        manifest = load(root, name)
        for path, hashed in (manifest or {}).get("outputs", {}).items():
            inputs[path] = hashed
    data = job.settings.data
    if job.stage.name == "preprocess" and data.source == "files":
        for path in [*data.path, *data.eval_path.values(), *data.sft_path]:
            inputs[path] = fingerprint(Path(path))
    reads_model = job.stage.name in ("preprocess", "sft") or (
        job.stage.name == "convert" and not job.settings.sft.enabled
    )
    if reads_model and job.settings.model.path:
        inputs[job.settings.model.path] = fingerprint(Path(job.settings.model.path))
    source = job.chosen_checkpoint
    if source is not None and source not in WORDS:
        inputs[source] = fingerprint(Path(source))
    if job.stage.name == "rollout":  # it samples the trained actor as soon as there is one
        inputs["checkpoints@latest"] = fingerprint(locate(root, "checkpoints@latest"))
    for function in _own_functions(job):
        if (file := source_of(function)) is not None:
            inputs[str(file)] = fingerprint(file)
    if job.stage.name == "report":
        read = [root / name for name in ("metrics.jsonl", "samples.jsonl", "sft/metrics.jsonl")]
        read.append(root / "rollout" / "pass_rates.jsonl")  # written when all offline shards are there
        read += [path for path in (root / "evaluate").glob("*.json*") if path.stem not in ("manifest", "started")]
        inputs |= {str(path.relative_to(root)): fingerprint(path) for path in sorted(read)}
    depends_on = job.stage.settings
    if job.stage.name == "evaluate" and job.settings.evaluate.other_sets:
        inputs |= {path: fingerprint(Path(path)) for path in data.eval_path.values()}
        depends_on += ("data",)
    return State(flat(job.settings, depends_on), inputs)


def _own_functions(job: Job) -> list[str]:
    """The user's functions that the job's result depends on."""
    own = [name for name in job.settings.verify.rewards if ":" in name] if "verify" in job.stage.settings else []
    if job.stage.name == "rl" and job.settings.algo.import_path is not None:
        own.append(job.settings.algo.import_path)
    return own


def load(root: Path, stage: str, variant: str | None = None) -> dict[str, Any] | None:
    """The manifest of a finished stage, or None.

    Raises:
        InputError: the file is damaged.
    """
    path = root / stage / "manifest.json"
    if not path.exists():
        return None
    manifest = _read_record(path, "Delete it; the stage then runs again.")
    return manifest.get("variants", {}).get(variant) if variant else manifest


def _read_record(path: Path, advice: str) -> dict[str, Any]:
    """A manifest, or the note of a start. Raises `InputError`, with the advice, if it is damaged."""
    try:
        record = read_json(path)
    except InputError as error:
        raise InputError(f"{error} {advice}") from error
    whole = isinstance(record, dict)
    variants = record.get("variants", {}) if whole else {}
    whole = whole and isinstance(variants, dict)
    for entry in (record, *variants.values()) if whole else ():
        parts = [entry.get(name, {}) for name in ("config", "inputs", "outputs")] if isinstance(entry, dict) else [None]
        whole = whole and all(isinstance(part, dict) for part in parts)
    if not whole:
        raise InputError(f"{path} is damaged: it does not hold settings, inputs and outputs. {advice}")
    return record


def save(job: Job, root: Path, state: State, seconds: float, result: dict[str, Any]) -> None:
    """Writes the manifest of a job that has just finished.

    Raises:
        InputError: it ended with exit code 0 and left no output.
    """
    outputs: dict[str, str | None] = {}
    for path in (*job.outputs, *job.stage.also):
        outputs[path] = fingerprint(locate(root, path))
        if outputs[path] is None and path in job.outputs:
            raise InputError(f"stage={job.stage.name} ended without {locate(root, path)}.")
    manifest: dict[str, Any] = {
        "stage": job.stage.name,
        "config_hash": digest(state.config),
        "config": state.config,
        "inputs": state.inputs,
        "outputs": {path: hashed for path, hashed in outputs.items() if hashed is not None},
        "seconds": round(seconds, 2),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "result": result,
    }
    target = root / job.stage.name / "manifest.json"
    if job.variant:
        old = load(root, job.stage.name) or {}
        variants = old.get("variants", {}) | {job.variant: manifest}
        manifest = {"stage": job.stage.name, "variants": variants}
        manifest["seconds"] = round(sum(entry.get("seconds", 0) for entry in variants.values()), 2)
    write_json(target, manifest)


def why_run(job: Job, root: Path, state: State) -> str | None:
    """Why the job has to run, or None if its manifest matches and its outputs are there."""
    if not job.outputs:
        return "it keeps no result"
    if job.settings.force:
        return "force=true"
    manifest = load(root, job.stage.name, job.variant)
    if manifest is None:
        return "it has not finished before"
    changes = state.changed_from(manifest)
    if changes:
        return "; ".join(changes)
    for path in job.outputs:
        if fingerprint(locate(root, path)) != manifest.get("outputs", {}).get(path):
            return f"{locate(root, path)} is not as the stage left it"
    return None


def prepare(job: Job, root: Path, state: State) -> list[str]:
    """Prepares the start: refuses to mix settings, moves aside what must not be continued, writes down the settings and inputs.
    Returns the paths of what was moved aside.

    Raises:
        UsageError: checkpoints of an RL run were made with other settings.
        InputError: the note of an earlier start is damaged.
    """
    note = root / job.stage.name / "started.json"
    moved: list[str] = []
    if job.stage.resumes and any((root / path).exists() for path in job.stage.resumes):
        advice = "It says which settings the checkpoints were made with: delete it if yours are the same, or give force=true."
        old = _read_record(note, advice) if note.exists() and not job.settings.force else {}
        changes = [change for change in state.changed_from(old) if change.split()[0] not in HARMLESS] if old else []
        guard = (root / job.stage.resumes[0]).exists() and job.stage.guarded and not job.settings.force
        if changes and guard:
            raise UsageError(
                f"{root / job.stage.resumes[0]} was made with other settings: {'; '.join(changes)}.\n"
                "Give those settings to continue it, another name=... for a new run, or force=true to move it aside."
            )
        if changes or job.settings.force:
            moved = [_move_aside(root / path) for path in job.stage.resumes if (root / path).exists()]
    write_json(note, {"config": state.config, "inputs": state.inputs})
    return moved


def require(job: Job, root: Path, command: str) -> None:
    """Checks that the stages which this job reads have finished, under the settings in force; `command` has `{stage}` for the
    stage's name.

    Raises:
        InputError: one has not finished, one of its outputs is missing, or a checkpoint folder's tracker file is damaged.
        UsageError: one was made with other settings.
    """
    for name in job.after:
        manifest = load(root, name)
        if manifest is None:
            raise InputError(f"stage={name} has not finished in {root}. Run: {command.format(stage=name)}")
        _check_made(name, manifest, job, root, command)
        for path in manifest.get("outputs", {}):
            if "@" in path:
                _check_tracker(root / path.partition("@")[0])
            if not locate(root, path).exists():
                raise InputError(f"{locate(root, path)} is missing. Run: {command.format(stage=name)} force=true")
    for path in job.stage.resumes if not job.settings.force else ():
        latest_iteration(root / path)


def _check_made(name: str, manifest: dict[str, Any], job: Job, root: Path, command: str) -> None:
    """Checks that an earlier stage, and those that it has read, were made with the settings of `job`.

    What `job` reads itself, such as the prompt template, is left to its own manifest. Raises UsageError.
    """
    if name == "preprocess" and job.settings.evaluate.other_sets:
        return  # its sets are not those that are measured; its other results are in what was made of them
    stage = STAGES[name]
    made, now = manifest.get("config", {}), flat(job.settings, stage.binding)
    changes = State(_binding(stage, now), {}).changed_from({"config": _binding(stage, made)})
    if changes and made:  # a record without settings says nothing
        raise UsageError(
            f"{root / name} was made with other settings: {'; '.join(changes)}.\n"
            f"Give those settings, or make it again: {command.format(stage=name)}\n"
            f"Without model=, `stage={job.stage.name} name={job.settings.name}` uses the settings of the run."
        )
    for earlier in Job(stage, job.settings).after if name in ("sft", "convert") else ():
        inner = load(root, earlier)
        if inner is not None:
            _check_made(earlier, inner, job, root, command)


def _binding(stage: Stage, config: dict[str, Any]) -> dict[str, Any]:
    """The part of a flat configuration that decides what a stage leaves."""
    return {key: value for key, value in config.items() if within(key, stage.binding) and key not in PROMPTS}


def _move_aside(path: Path) -> str:
    number = 1
    while (target := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(target)
    return str(target)


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
