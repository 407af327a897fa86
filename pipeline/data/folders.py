"""The data files that a path names: itself, or those of one split of a Hugging Face dataset folder.

Two kinds of folder are known: what `Dataset.save_to_disk` leaves (`state.json`, one folder a split beside
`dataset_dict.json`), and a download from the hub (data files whose name or folder says their split, or a README that does).
"""

import json
import re
from pathlib import Path

import yaml

from pipeline.common.errors import InputError

ENDINGS = (
    ".jsonl",
    ".json",
    ".parquet",
    ".arrow",
    ".csv",
    ".tsv",
    ".jsonl.gz",
    ".json.gz",
    ".csv.gz",
    ".tsv.gz",
    ".ndjson",
)
NOT_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "state.json", "dataset_dict.json", "config.json"})
ALIASES = {"dev": "validation", "valid": "validation", "val": "validation", "eval": "test", "training": "train"}
_SPLIT = re.compile(r"(?:^|[^a-z])(train|training|test|eval|validation|valid|val|dev)(?:[^a-z]|$)")


def files_of(path: Path, split: str) -> list[Path]:
    """The data files at `path`, in order of their names; of a folder with several splits those of `split`.

    Raises InputError: nothing there, a folder without data files, or without that split (names the ones it has).
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check data.path, data.sft_path and data.eval_path")
    try:
        splits = _splits(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}: its dataset description cannot be understood ({error}). Name its files instead"
        ) from error
    if not splits:
        raise InputError(f"{path} holds no data files ({', '.join(ENDINGS[:6])})")
    chosen = splits[next(iter(splits))] if len(splits) == 1 else splits.get(split)
    if chosen is None:
        raise InputError(
            f"{path} has the splits {', '.join(sorted(splits))}, but not {split}. Set data.split (training) or "
            "data.eval_split (evaluation), or name the files"
        )
    missing = next((file for file in chosen if not file.is_file()), None)
    if missing is not None:
        raise InputError(f"{missing} is missing, although {path} lists it; copy the folder again")
    return chosen


def _splits(folder: Path) -> dict[str, list[Path]]:
    if (folder / "dataset_dict.json").is_file():
        names = json.loads((folder / "dataset_dict.json").read_text("utf-8"))["splits"]
        return {name: _saved(folder / name) for name in names}
    if (folder / "state.json").is_file():
        return {"all": _saved(folder)}
    return _described(folder) or _named(folder)


def _saved(folder: Path) -> list[Path]:
    """The Arrow files of one saved data set."""
    state = json.loads((folder / "state.json").read_text("utf-8"))
    return [folder / entry["filename"] for entry in state["_data_files"]]


def _described(folder: Path) -> dict[str, list[Path]]:
    """As the README's `configs` say; the one called default, or else the first."""
    readme = folder / "README.md"
    match = re.match(r"---\s*\n(.*?)\n---", readme.read_text("utf-8", "replace"), re.S) if readme.is_file() else None
    try:
        configs = (yaml.safe_load(match.group(1)) or {}).get("configs") if match else None
    except yaml.YAMLError:
        return {}
    if not configs:
        return {}
    config = next((one for one in configs if one.get("config_name") == "default" or one.get("default")), configs[0])
    listed = config.get("data_files")
    if isinstance(listed, str) or (isinstance(listed, list) and all(isinstance(item, str) for item in listed)):
        listed = [{"split": "train", "path": listed}]
    splits: dict[str, list[Path]] = {}
    for entry in listed or []:
        patterns = [entry["path"]] if isinstance(entry["path"], str) else entry["path"]
        found = [file for pattern in patterns for file in sorted(folder.glob(pattern)) if file.is_file()]
        if found:
            splits.setdefault(entry["split"], []).extend(found)
    return splits


def _named(folder: Path) -> dict[str, list[Path]]:
    """By the split's name in the file's name, or else in its folder's; without any, all files are one split."""
    splits: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*")):
        inner = file.relative_to(folder)
        hidden = any(part.startswith(".") for part in inner.parts)
        if hidden or file.name in NOT_DATA or not file.name.endswith(ENDINGS) or not file.is_file():
            continue
        match = next((m for part in reversed(inner.parts) if (m := _SPLIT.search(part.lower()))), None)
        name = match.group(1) if match else "all"
        splits.setdefault(ALIASES.get(name, name), []).append(file)
    return splits
