"""Published evaluation sets that `data.eval=[aime24,...]` knows by name, and how many samples are usual for each.

Small sets need more samples: with 30 problems, one answer more or less is three points. AIME and AMC are reported as avg@32,
MATH-500 as avg@4; GSM8K has so many problems that one sample is steady, and a few more give pass@k.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.names import unknown

BY_PACKAGE = "datasets:"
"""Path of a known set without a file: the package `datasets` loads it."""
ENDINGS = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv")
_PACKED = (".gz", ".bz2", ".xz")


@dataclass(frozen=True, kw_only=True)
class ReadySet:
    """One published set."""

    published_as: str
    """Data set on the hub."""
    config: str | None = None
    """Its configuration there, if it has several."""
    split: str = "test"
    problems: int
    """Problems of the published set. Another number makes a score that cannot be compared."""
    k: int
    """Samples for each problem, as this set is usually reported."""
    headline: str
    """The figure that is usually reported."""
    temperature: float = 0.6
    top_p: float = 0.95
    max_new_tokens: int = 32_768
    """Sampling and length of reasoning models (DeepSeek-R1, arXiv 2501.12948; Qwen3, arXiv 2505.09388)."""
    answers: str
    """What a right answer is. All sets are shown without examples (zero-shot), and the answer is read from the box."""


READY_SETS = {
    "aime24": ReadySet(
        published_as="HuggingFaceH4/aime_2024",
        split="train",
        problems=30,
        k=32,
        headline="avg@32",
        answers="a whole number from 0 to 999",
    ),
    "aime25": ReadySet(
        published_as="math-ai/aime25", problems=30, k=32, headline="avg@32", answers="a whole number from 0 to 999"
    ),
    "amc23": ReadySet(published_as="math-ai/amc23", problems=40, k=32, headline="avg@32", answers="a number"),
    "math500": ReadySet(
        published_as="HuggingFaceH4/MATH-500",
        problems=500,
        k=4,
        headline="avg@4",
        answers="equal in value: a number, an expression, a point, a set, a word",
    ),
    "gsm8k": ReadySet(
        published_as="openai/gsm8k",
        config="main",
        problems=1319,
        k=4,
        headline="greedy",
        max_new_tokens=2048,
        answers="a whole number, published after ####",
    ),
}
"""By name. Their columns are among those that `data.columns` knows."""


def is_named(entry: str) -> bool:
    """Whether an entry of `data.eval` is the name of a set and not a path."""
    return "/" not in entry and not Path(entry).suffix


def sets_of(entries: list[str], folder: str | None) -> dict[str, str]:
    """Name -> path of each entry of `data.eval`. Known sets are looked for in `folder`.

    Raises ValueError for a name that is not known, and for two entries with one name.
    """
    found: dict[str, str] = {}
    for entry in entries:
        if entry in READY_SETS:
            name, path = entry, _in_folder(entry, folder) or f"{BY_PACKAGE}{entry}"
        elif is_named(entry) and not Path(entry).is_dir():
            raise ValueError(f"{unknown('data.eval', entry, READY_SETS)}, or a file (data.eval=mine.jsonl)")
        else:
            name, path = _name_of(Path(entry)), entry
        if name in found:
            raise ValueError(
                f"data.eval has two sets called {name}: {found[name]} and {path}. Give one as data.eval_path.<name>=<file>"
            )
        found[name] = path
    return found


def _in_folder(name: str, folder: str | None) -> str | None:
    """The file or dataset folder of a known set: with the set's name or the published name; case and dashes do not
    count."""
    if folder is None or not Path(folder).is_dir():
        return None
    ready = READY_SETS[name]
    wanted = {_plain(text) for text in (name, f"{name}_{ready.split}", ready.published_as.rpartition("/")[2])}
    paths = [
        path for path in sorted(Path(folder).iterdir()) if path.is_dir() or path.name.endswith((*ENDINGS, *_PACKED))
    ]
    return next((str(path) for path in paths if _plain(_stem(path)) in wanted), None)


def _name_of(path: Path) -> str:
    """A set's name from its file's: letters, digits, `_`, `-` and `.`."""
    return re.sub(r"[^\w.-]", "-", _stem(path)).lstrip(".-") or "set"


def _stem(path: Path) -> str:
    """The name without its endings."""
    name = path.name
    for ending in (*_PACKED, *ENDINGS):
        name = name.removesuffix(ending)
    return name


def _plain(text: str) -> str:
    return re.sub(r"[\W_]", "", text).lower()
