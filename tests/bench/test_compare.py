"""A benchmark's comparison with an earlier run: ratios, verdicts by ranges, and what it refuses. Nothing is timed here."""

import json

import pytest
from rich.console import Console

from pipeline.common.errors import InputError, UsageError
from pipeline.common.files import read_json
from pipeline.run.compose import compose
from pipeline.settings import Bench
from pipeline.stage import StageRun
from stages.bench import __main__ as stage
from stages.bench.compare import compare, differences, load


@pytest.mark.parametrize(
    ("earlier", "now", "ratio", "verdict"),
    [
        ([1.0, 1.1, 1.2], [1.3, 1.4, 2.0], 1.4 / 1.1, "slower"),
        ([1.0, 1.1, 1.2], [0.5, 0.6, 0.9], 0.6 / 1.1, "faster"),
        ([1.0, 1.1, 1.2], [1.15, 1.3, 1.4], 1.3 / 1.1, "within the noise"),
        ([1.0, 1.1, 1.2], [1.2, 1.2, 1.2], 1.2 / 1.1, "within the noise"),  # ranges that touch overlap
        ([2.0], [2.0], 1.0, "within the noise"),
        ([0.0], [1.0], float("inf"), "slower"),
    ],
)
def test_a_row_is_slower_only_if_the_ranges_do_not_overlap(earlier, now, ratio, verdict):
    (row,) = compare({"x": earlier}, {"x": now})
    assert row.ratio == pytest.approx(ratio)
    assert row.verdict == verdict


def test_few_repeats_say_how_often_they_mislead():
    (row,) = compare({"x": [1.0, 1.0]}, {"x": [1.0, 1.0]})
    assert row.chance == pytest.approx(1 / 6)  # of the 6 orders of 2 + 2 values one has both new ones on top
    (row,) = compare({"x": [1.0] * 5}, {"x": [1.0] * 5})
    assert row.chance == pytest.approx(1 / 252)


def test_what_differs_besides_the_times_is_named():
    earlier = {
        "samples": {"a": [1], "gone": [1]},
        "settings": {"bench.tokens": 64},
        "environment": {"cpus": 2, "versions": {"torch": "2.12"}, "executable": "/old"},
    }
    now = {
        "samples": {"a": [1], "new": [1]},
        "settings": {"bench.tokens": 128},
        "environment": {"cpus": 2, "versions": {"torch": "2.13"}, "executable": "/new"},
    }
    assert differences(earlier, now) == [
        "bench.tokens: 64 then, 128 now",
        "versions.torch: 2.12 then, 2.13 now",
        "row gone: only in the earlier run",
        "row new: only in this run",
    ]


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        (None, InputError, "cannot be read"),
        ("{", InputError, "not JSON"),
        ("[]", InputError, "no samples"),
        ('{"what": "step", "samples": {"a": []}}', InputError, "no samples"),
        ('{"what": "rollout", "samples": {"a": [1]}}', UsageError, "what=rollout, not what=step"),
    ],
)
def test_a_file_that_cannot_be_compared_with_is_refused(tmp_path, text, error, said):
    path = tmp_path / "earlier.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(error, match=said):
        load(str(path), "step")


def test_the_stage_leaves_a_record_that_the_next_run_is_compared_with(tmp_path, capsys, monkeypatch):
    class Module:
        times = (1.0, 1.5)

        @classmethod
        def bench(cls, settings):
            return {"what": "objective", "samples": {"total": list(cls.times), "other": [1.0, 1.0]}}

    monkeypatch.setattr(stage.importlib, "import_module", lambda name: Module)
    monkeypatch.setattr(stage, "Console", lambda: Console(width=120))
    settings = compose(["stage=bench", "model=tiny", "what=objective"])
    assert stage.main(StageRun(settings, tmp_path)) == {"what": "objective"}
    path = tmp_path / "bench" / "objective.json"
    record = read_json(path)
    assert record["environment"]["versions"]["torch"]
    assert {"revision", "processor", "cpus"} <= record["environment"].keys()
    assert record["settings"]["bench.tokens"] == 4096
    Module.times = (3.0, 4.0)
    again = settings.model_copy(update={"bench": Bench(what="objective", compare=str(path))})
    # The record that it is compared with is the one that it replaces.
    assert stage.main(StageRun(again, tmp_path)) == {"what": "objective", "slower": ["total"], "faster": []}
    said = capsys.readouterr().out
    assert "2.800" in said
    assert "equal runs are called slower 17% of the time" in said
    assert "slower by more than the noise: total" in said
    assert json.loads(path.read_text())["samples"]["total"] == [3.0, 4.0]
