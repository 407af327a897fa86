"""Published evaluation sets that are loaded by name (`data.eval=[aime24,...]`)."""

from pathlib import Path

from pipeline.common.errors import InputError
from pipeline.common.files import write_jsonl
from pipeline.settings import Data
from pipeline.settings.ready_sets import BY_PACKAGE, READY_SETS


def with_files(data: Data, folder: Path) -> Data:
    """`data` with a file in `folder` for each known set that has none: the package `datasets` loads it.

    Raises InputError where the package is missing or cannot load the set; says which file to bring instead.
    """
    paths = {}
    for name, path in data.eval_path.items():
        if path.startswith(BY_PACKAGE):
            target = folder / f"{name}.jsonl"
            if not target.exists():
                write_jsonl(target, _load(path.removeprefix(BY_PACKAGE), data.eval_folder))
            path = str(target)
        paths[name] = path
    return data.model_copy(update={"eval_path": paths})


def _load(name: str, folder: str | None) -> list[dict]:
    ready = READY_SETS[name]
    source = f"{ready.published_as} (split {ready.split})"
    looked = f"data.eval_folder={folder} has no {name}.jsonl" if folder else "data.eval_folder is not set"
    bring = f"Download {source} and give its folder or file: data.eval_folder=<folder with {name}.jsonl>"
    try:
        import datasets
    except ImportError:
        raise InputError(
            f"data.eval={name}: {looked}, and the package datasets, which could load it, is not installed. {bring}, or "
            "install the package."
        ) from None
    try:
        return [dict(row) for row in datasets.load_dataset(ready.published_as, ready.config, split=ready.split)]
    except Exception as error:  # of the network, the hub or the package: all mean that the file has to be brought
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"data.eval={name}: {looked}, and {source} could not be loaded ({reason}). {bring}."
        ) from error


def counts_differ(data: Data, counts: dict[str, int]) -> list[str]:
    """A warning for each known set whose number of problems is not the published one."""
    return [
        f"WARNING: {name} has {counts[name]:,} problems, and the published set has {READY_SETS[name].problems:,}: its score "
        "cannot be compared with others'"
        for name in data.eval
        if name in READY_SETS and name in counts and counts[name] != READY_SETS[name].problems
    ]
