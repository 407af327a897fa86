"""Drift of how paid answers are given: reported once, never for a handful of answers, and also across a restart."""

from collections.abc import Callable
from pathlib import Path

from pipeline.common.files import write_jsonl
from pipeline.tracking import Tracker
from pipeline.tracking.drift import DriftWatch, drifts


def row(step: int, paid: float = 50, unboxed: float = 0.02, prose: float = 0.01, other: float = 0.1) -> dict:
    return {
        "step": step, "verify/paid": paid, "verify/paid_unboxed": unboxed, "verify/paid_prose": prose,
        "verify/paid_other_form": other,
    }  # fmt: skip


def run(steps: int, late: Callable[[int], dict]) -> list[dict]:
    """A run whose first 20 steps are alike."""
    return [row(step) if step <= 20 else late(step) for step in range(1, steps + 1)]


def test_a_share_that_rises_is_reported_once_with_both_sides() -> None:
    rows = run(80, lambda step: row(step, unboxed=0.4, prose=0.35))
    watch = DriftWatch()
    found = {r["step"]: watch.see(r["step"], r) for r in rows}
    at = [step for step, drift in found.items() if drift]
    assert [drift.name for step in at for drift in found[step]] == ["verify/paid_unboxed", "verify/paid_prose"]
    assert 20 < at[0] <= 25  # some steps of 40% are enough to move the newest ten by more than 10 points
    assert str(found[at[0]][0]).startswith(
        "verify/paid_unboxed: of the paid answers, 2.0% in steps 1 to 10 were given without a box"
    )
    assert drifts(rows) == [drift for step in at for drift in found[step]]


def test_a_share_that_falls_is_a_drift_and_a_small_change_is_none() -> None:
    assert [drift.name for drift in drifts(run(60, lambda step: row(step, other=0.0, unboxed=0.02)))] == []
    assert [d.name for d in drifts([row(s, other=0.5 if s <= 20 else 0.3) for s in range(1, 60)])] == [
        "verify/paid_other_form"
    ]
    assert drifts(run(60, lambda step: row(step, unboxed=0.11))) == []


def test_few_paid_answers_are_no_drift() -> None:
    """A weak policy pays two answers a step: a share of 1 in one of them is noise, and the windows grow until 200 are in."""
    noisy = [row(step, paid=2, unboxed=float(step % 25 == 24)) for step in range(1, 190)]
    assert drifts(noisy) == []
    assert drifts([row(step, paid=0) if step % 2 else {"step": step} for step in range(1, 90)]) == []
    slow = [row(step, paid=4, unboxed=float(step > 60)) for step in range(1, 130)]
    assert [drift.early.last for drift in drifts(slow)] == [50]


def test_a_continued_run_is_compared_with_its_own_first_steps() -> None:
    rows = run(60, lambda step: row(step, prose=0.5))
    watch = DriftWatch(rows[:20])
    continued = [drift for r in rows[20:] for drift in watch.see(r["step"], r)]
    assert continued == drifts(rows)
    assert DriftWatch(rows).see(61, row(61, prose=0.5)) == []  # reported before the restart


def test_the_rows_of_a_run_are_read_by_the_rank_that_writes_them(tmp_path: Path) -> None:
    rows = run(60, lambda step: row(step, prose=0.5))
    write_jsonl(tmp_path / "metrics.jsonl", rows)
    assert list(Tracker(tmp_path, 60).rows()) == rows
    assert list(Tracker(tmp_path, 60, enabled=False).rows()) == []
    assert list(Tracker(tmp_path / "new", 60).rows()) == []
