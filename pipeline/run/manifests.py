"""Manifests: what a finished stage was made of, so that it is run again when that changed and not otherwise.

`<stage>/manifest.json` holds the settings that the result depends on (flat, so that a change can be named), its inputs
and outputs by hash, and the seconds it took. `<stage>/started.json` holds the same settings and inputs from the moment
of the start: what a killed stage's checkpoints were made with.
"""

import datetime
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError, UsageError
from pipeline.common.files import read_json, write_json
from pipeline.common.names import nearest
from pipeline.run.catalog import HARMLESS, IRRELEVANT, Job
from pipeline.settings import Settings

WORDS = ("before", "after")
"""Checkpoints of the run itself: the converted base, and the newest of the training."""
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
    """Where an output of the catalog lies; `x@latest` is the iteration that Megatron's tracker file names."""
    folder, at, _ = path.partition("@")
    if not at:
        return root / path
    tracker = root / folder / "latest_checkpointed_iteration.txt"
    try:
        return root / folder / f"iter_{int(tracker.read_text()):07d}"
    except (OSError, ValueError):
        return tracker


@dataclass(frozen=True)
class State:
    """A job's settings and inputs as they are now."""

    config: dict[str, Any]
    inputs: dict[str, str | None]

    def changed_from(self, old: dict[str, Any]) -> list[str]:
        """What differs from a manifest: `rl.steps 24 -> 80`, or the name of an input."""
        before = old.get("config", {})
        changes = [
            f"{key} {_short(before.get(key))} -> {_short(self.config.get(key))}"
            for key in sorted({*before, *self.config})
            if before.get(key) != self.config.get(key)
        ]
        inputs = old.get("inputs", {})
        return changes + [
            f"{name} is another"
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
    loss_file = (job.settings.algo.import_path or "").rpartition(":")[0]
    if job.stage.name == "rl" and loss_file.endswith(".py"):
        inputs[loss_file] = fingerprint(Path(loss_file))
    if job.stage.name == "report":
        for path in ("metrics.jsonl", "samples.jsonl", "evaluate/before.json", "evaluate/after.json"):
            inputs[path] = fingerprint(root / path)
    return State(flat(job.settings, job.stage.settings), inputs)


def load(root: Path, stage: str, variant: str | None = None) -> dict[str, Any] | None:
    """The manifest of a finished stage, or None."""
    path = root / stage / "manifest.json"
    if not path.exists():
        return None
    manifest = read_json(path)
    return manifest.get("variants", {}).get(variant) if variant else manifest


def save(job: Job, root: Path, state: State, seconds: float, result: dict[str, Any]) -> None:
    """Write the manifest of a job that has just finished.

    Raises:
        InputError: it ended well and left no output.
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
        manifest["seconds"] = round(sum(entry["seconds"] for entry in variants.values()), 2)
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
        if fingerprint(locate(root, path)) != manifest["outputs"].get(path):
            return f"{locate(root, path)} is not as the stage left it"
    return None


def prepare(job: Job, root: Path, state: State) -> list[str]:
    """Make ready for the start: refuse to mix settings, set aside what must not be continued, note what is started
    with. Returns what was set aside.

    Raises:
        UsageError: checkpoints of an RL run were made under other settings.
    """
    note = root / job.stage.name / "started.json"
    moved: list[str] = []
    if job.stage.resumes and any((root / path).exists() for path in job.stage.resumes):
        old = read_json(note) if note.exists() else {}
        changes = [change for change in state.changed_from(old) if change.split()[0] not in HARMLESS] if old else []
        guard = (root / job.stage.resumes[0]).exists() and job.stage.guarded and not job.settings.force
        if changes and guard:
            raise UsageError(
                f"{root / job.stage.resumes[0]} was made under other settings: {'; '.join(changes)}.\n"
                "Give those settings to continue it, another name=... for a new run, or force=true to set it aside."
            )
        if changes or job.settings.force:
            moved = [_set_aside(root / path) for path in job.stage.resumes if (root / path).exists()]
    write_json(note, {"config": state.config, "inputs": state.inputs})
    return moved


def require(job: Job, root: Path, command: str) -> None:
    """Raises `InputError` if a stage that this job reads has not finished, or a checkpoint of the user's is not there;
    `command` has `{stage}` for the stage's name."""
    chosen = job.chosen_checkpoint
    if chosen is not None and chosen not in WORDS and not Path(chosen).is_dir():
        key = f"{job.stage.name}.checkpoint"
        guess = nearest(chosen, WORDS) if "/" not in chosen else None
        hint = f" Did you mean {key}={guess}?" if guess else ""
        text = f"{key}={chosen}: there is no such folder.{hint} Allowed: {', '.join(WORDS)}, or a checkpoint folder."
        raise UsageError(text) if guess else InputError(text)
    for name in job.after:
        manifest = load(root, name)
        if manifest is None:
            raise InputError(f"stage={name} has not finished in {root}. Run: {command.format(stage=name)}")
        for path in manifest.get("outputs", {}):
            if not locate(root, path).exists():
                raise InputError(f"{locate(root, path)} is missing. Run: {command.format(stage=name)} force=true")


def _set_aside(path: Path) -> str:
    number = 1
    while (target := path.with_name(f"{path.name}.old-{number}")).exists():
        number += 1
    path.rename(target)
    return str(target)


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 40 else text[:37] + "..."
