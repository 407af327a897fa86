"""Results of reading the user's files, as a table for people and as numbers for the manifest."""

from collections import Counter
from typing import Any

from rich.table import Table

from pipeline.data.intake import Intake

DROPS = {
    "duplicate": "copies",
    "near duplicate": "near",
    "conflicting answers": "conflict",
    "contaminated": "in eval",
}
"""Reason -> heading."""


def file_table(intake: Intake) -> Table:
    """A line for each `data.path`, `data.sft_path` and `data.eval_path` entry."""
    table = Table(title="preprocess")
    table.add_column("file", overflow="fold")
    for heading in ("read", "bad", *DROPS.values(), "kept"):
        table.add_column(heading, no_wrap=True, justify="right")
    for name, count in intake.counts.items():
        cells = [count["read"], intake.quarantined[name], *(count[reason] for reason in DROPS)]
        table.add_row(name, *(_number(cell) for cell in cells), f"{count['read'] - intake.left_out(name):,}")
    return table


def notes(intake: Intake) -> list[str]:
    """Sentences on what a person should look at: why rows are in quarantine, and which evaluation sets lost problems."""
    lines = []
    reasons = Counter(row["reason"] for row in intake.quarantine)
    if reasons:
        lines.append("in quarantine: " + ", ".join(f"{number:,} {reason}" for reason, number in reasons.most_common()))
    matched = Counter(row["matched"].get("set") for row in intake.dropped if row["reason"] == "contaminated")
    if matched:
        found = ", ".join(f"{number:,} of {name}" for name, number in sorted(matched.items()))
        lines.append(f"training problems dropped because they are in an evaluation set: {found}")
    for name, count in intake.counts.items():
        if name.startswith("eval/") and intake.left_out(name):
            lines.append(
                f"WARNING: {name[5:]} lacks {intake.left_out(name):,} of its {count['read']:,} problems (preprocess/"
                "quarantine.jsonl says why), so its score cannot be compared with others'"
            )
    return lines


def numbers(intake: Intake) -> dict[str, Any]:
    """By entry: read, kept, and how many left for which reason."""
    return {
        name: dict(count) | {"kept": count["read"] - intake.left_out(name)} for name, count in intake.counts.items()
    }


def _number(value: int) -> str:
    return f"{value:,}" if value else "-"
