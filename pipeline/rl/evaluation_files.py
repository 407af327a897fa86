"""What an evaluation leaves, in the form of lm-evaluation-harness: `results.json`, and a file of samples for each set.

Tools that read the harness's results can read these. Tasks are the sets, metrics are `greedy`, `avg@k`, `pass@k`, `maj@k`, all
under the filter `none`. A standard error is taken from the bootstrap interval: half its width is 1.96 of them.
"""

import datetime
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.common.files import write_json, write_jsonl
from pipeline.tracking.statistics import is_accuracy

VERSION = 1
"""Of the sets' protocol and of the verifier's conventions. Results of different versions must not be compared."""
STANDARD_ERRORS = 3.92
"""Width of a 95% interval in standard errors."""
Row = dict[str, Any]


def write_files(
    folder: Path, sets: dict[str, Row], protocols: dict[str, Row], rows: dict[str, list[Row]], about: Row
) -> None:
    """Writes `results.json` and `samples_<set>.jsonl` into `folder`.

    Args:
        sets: statistics of each set, as `summarise` gives them.
        protocols: what each was measured under.
        rows: all problems of each set with their responses.
        about: the model's name and source, versions, revision, seconds.
    """
    write_json(folder / "results.json", results(sets, protocols, about))
    for name, problems in rows.items():
        write_jsonl(folder / f"samples_{name}.jsonl", samples(problems))


def results(sets: dict[str, Row], protocols: dict[str, Row], about: Row) -> Row:
    """The content of `results.json`."""
    metrics = {name: [key for key in entry if is_accuracy(key)] for name, entry in sets.items()}
    return {
        "results": {name: _task(name, entry, metrics[name]) for name, entry in sets.items()},
        "configs": {name: {"task": name} | protocol for name, protocol in protocols.items()},
        "versions": dict.fromkeys(sets, VERSION),
        "n-shot": dict.fromkeys(sets, 0),
        "higher_is_better": {name: dict.fromkeys(keys, True) for name, keys in metrics.items()},
        "n-samples": {name: {"original": entry["n"], "effective": entry["n"]} for name, entry in sets.items()},
        "date": datetime.datetime.now(datetime.UTC).timestamp(),
    } | about


def _task(name: str, entry: Row, metrics: list[str]) -> Row:
    task: Row = {"alias": name}
    for key in metrics:
        low, high = entry[f"{key}_ci"]
        task |= {f"{key},none": entry[key], f"{key}_stderr,none": (high - low) / STANDARD_ERRORS}
    return task


def samples(problems: list[Row]) -> Iterator[Row]:
    """A row for each problem: the responses in the order greedy, then sampled, with what was read from each."""
    for number, row in enumerate(problems):
        responses = row["responses"]
        doc = {"id": row["prompt_id"], "problem": row["problem"], "answer": row["gold"]}
        sampled = [response["correct"] for response in responses if not response["greedy"]]
        yield {
            "doc_id": number,
            "doc": doc,
            "doc_hash": hashlib.sha256(f"{row['problem']}\0{row['gold']}".encode()).hexdigest(),
            "target": row["gold"],
            "resps": [[response["text"] for response in responses]],
            "filtered_resps": [response["extracted"] for response in responses],
            "filter": "none",
            "metrics": ["greedy", "avg"],
            "correct": [response["correct"] for response in responses],
            "finish_reason": [response["finish_reason"] for response in responses],
            "greedy": float(next(response["correct"] for response in responses if response["greedy"])),
            "avg": sum(sampled) / len(sampled),
        }
