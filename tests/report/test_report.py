"""The report of whole, cut short and hostile runs."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from fake_runs import metrics_row, write_run
from pages import HOSTILE, Page

from pipeline.common.errors import InputError
from pipeline.common.files import append_jsonl, read_json, write_json, write_jsonl
from pipeline.report import read_run, render
from pipeline.settings import Report, Verify
from pipeline.stage import StageRun
from stages import report


def page_of(root) -> Page:
    page = render(read_run(root))
    page.encode("utf-8")  # a lone surrogate would raise
    checked = Page(page)
    assert checked.scripts == 1
    assert checked.handlers == []
    assert all(value is not None and value.startswith("#") for _, value in checked.loads)
    assert not re.search(r"url\(|@import|https?://", page)
    assert not re.search(r'(?: d="[^"]*|points="[^"]*)(?:nan|inf|None)', page, re.IGNORECASE)
    return checked


def test_a_whole_run(tmp_path):
    words = page_of(write_run(tmp_path / "tiny")).words
    for title in (
        "Accuracy", "Learning", "Elastic trust region", "Policy", "Responses", "Verifier", "Speed", "Everything else",
        "Direct answers", "Warm-up", "Cost", "Set-up", "Before training", "After training", "Early and late",
    ):  # fmt: skip
        assert title in words
    assert "35.8% → 85.2%" in words
    assert "+49.5 points" in words
    assert "custom/kv_cache_mib" in words  # no panel names it
    assert "Not in this report" not in words


def test_the_stage_writes_report_and_summary(tmp_path, capsys):
    root = write_run(tmp_path / "tiny", steps=3)
    settings = SimpleNamespace(
        stage="report", model_name="tiny", name="tiny", verify=Verify(workers=1), report=Report(audit_rows=0)
    )
    result = report.main(StageRun(settings=settings, root=root))
    assert (root / "report.html").read_text("utf-8").startswith("<!doctype html>")
    assert result["steps"] == 3
    assert read_json(root / "summary.json")["accuracy"]["after"]["avg@8"] == pytest.approx(0.8525)
    assert str(root / "report.html") in capsys.readouterr().out


def test_a_missing_or_empty_run_names_the_command(tmp_path):
    with pytest.raises(InputError, match=r"no run .*nothing.*bash run.sh stage=all model=4b"):
        read_run(tmp_path / "nothing", command="bash run.sh stage=all model=4b")
    with pytest.raises(InputError, match="nothing to report on"):
        read_run(tmp_path)


def test_a_run_that_has_just_begun(tmp_path):
    root = tmp_path / "tiny"
    write_jsonl(root / "metrics.jsonl", [metrics_row(1, 80, np.random.default_rng(0))])
    words = page_of(root).words
    assert "Not in this report" in words
    assert "accuracy before training (stage=evaluate evaluate.checkpoint=before)" in words
    assert "sampled rollouts of the training" in words
    assert "the configuration" in words


def test_only_an_evaluation(tmp_path):
    root = write_run(tmp_path / "tiny", evaluated=("before",))
    (root / "metrics.jsonl").unlink()
    (root / "samples.jsonl").unlink()
    words = page_of(root).words
    assert "the RL stage has not finished a step" in words
    assert "35.8% before training" in words
    assert "After training" not in words


def test_torn_lines_nulls_and_damage(tmp_path):
    root = write_run(tmp_path / "tiny", steps=6)
    rows = [metrics_row(step, 6, np.random.default_rng(step)) for step in (7, 8)]
    rows[0] = dict.fromkeys(rows[0]) | {"step": 7, "note/text": "abc", "hist/scale": {"edges": [1], "counts": []}}
    rows[1] |= {"reward/mean": float("nan"), "policy/entropy": None, "gap/never": None}
    append_jsonl(root / "metrics.jsonl", rows)
    with open(root / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 9, "reward/mean": 0.')
    with open(root / "samples.jsonl", "ab") as file:
        file.write(b"\n\xff\xfe damage\n" + b'{"step": 8}\n')
    (root / "evaluate" / "after.json").write_text("{")
    (root / "environment.json").write_text("[]")
    data = read_run(root)
    assert [row["step"] for row in data.metrics] == list(range(1, 9))
    words = page_of(root).words
    assert "after.json is not JSON" in words
    assert "all rows after a damaged line" in words
    assert "Never a finite number: gap/never, note/text." in words


def test_samples_of_any_shape(tmp_path):
    root = write_run(tmp_path / "tiny", steps=2)
    write_jsonl(root / "samples.jsonl", [
        {}, {"step": 1}, {"step": 1, "responses": None, "text": "flat one"}, {"step": 2, "responses": ["bare text", 5]},
        {"step": 2, "responses": [{"text": None}, {"text": 7, "correct": True}, {"reward": 1}]},
        {"step": "x", "problem": ["list"], "responses": [{"text": ""}]},
    ])  # fmt: skip
    words = page_of(root).words
    assert "flat one" in words
    assert "bare text" in words


def test_greedy_answers_are_shown_but_not_counted_among_the_samples(tmp_path):
    root = write_run(tmp_path / "tiny", steps=2)
    responses = [{"text": r"\boxed{1}", "correct": True, "greedy": True}]
    responses += [{"text": r"1+1=2 \boxed{2}", "correct": i == 0, "greedy": False} for i in range(4)]
    row = {"prompt_id": "p", "problem": "1+1=", "gold": "2", "responses": responses}
    for when in ("before", "after"):
        write_jsonl(root / "evaluate" / f"{when}.samples.jsonl", [row])
        entry = read_json(root / "evaluate" / f"{when}.json")
        del entry["sets"]["held_out"]["direct_share"]
        write_json(root / "evaluate" / f"{when}.json", entry)
    words = page_of(root).words
    assert "1 of 4 samples right" in words
    assert "direct answers 0% → 0%" in words


def test_everything_a_model_wrote_is_escaped(tmp_path):
    root = write_run(tmp_path / f"<b>{'x' * 20}</b>".replace("/", "_"), steps=2)
    sample = {"prompt_id": HOSTILE, "problem": HOSTILE, "gold": HOSTILE}
    response = {"text": HOSTILE, "reward": 1.0, "finish_reason": HOSTILE, "extracted": HOSTILE}
    rows = [sample | {"step": step, "set": HOSTILE, "responses": [response]} for step in (1, 2)]
    append_jsonl(root / "samples.jsonl", rows)
    for when in ("before", "after"):
        write_jsonl(root / "evaluate" / f"{when}.samples.jsonl", rows[:1])
    write_jsonl(root / "metrics.jsonl", [{"step": 1, HOSTILE: 1.0, f"eval/{HOSTILE}": 0.5, f"seconds/{HOSTILE}": 1}])
    entry = {"n": 3, "greedy": 0.5, f"pass@{HOSTILE[:26]}": 0.5}
    write_json(root / "evaluate" / "odd.json", {"sets": {HOSTILE.replace("\ud800", ""): entry}})
    write_json(root / "environment.json", {"host": "<script>", "versions": {"<script>": "</dl>"}})
    (root / "config.yaml").write_text("model_name: '<script>alert(2)</script>'\n</pre></details>\n")
    page = page_of(root)
    raw = render(read_run(root))
    assert "<script>alert" not in raw
    assert "<img" not in raw
    assert "␀" in page.words
    assert "\\ud800" in page.words
    assert "\\u202e" in page.words
    assert "\0" not in raw
    assert "\x1b" not in raw
    assert "<script>alert(1)</script> ' \" &" in page.words


def test_huge_texts_are_shortened_with_a_note(tmp_path):
    root = write_run(tmp_path / "tiny", steps=2)
    text = "a" * 3_000_000 + r"\boxed{7}"
    row = {"prompt_id": "p", "problem": "q" * 100_000, "gold": "7", "responses": [{"text": text}] * 2}
    write_jsonl(root / "samples.jsonl", [{"step": step} | row for step in (1, 2)])
    page = page_of(root)
    assert "2,998,409 characters left out" in page.words
    assert r"\boxed{7}" in page.words
    assert len("".join(page.text)) < 200_000


def test_a_long_run_stays_light(tmp_path):
    root = tmp_path / "long"
    random = np.random.default_rng(0)
    row = metrics_row(1, 1500, random)
    numbers = {name: value for name, value in row.items() if not isinstance(value, dict)}
    noise = random.normal(1, 0.1, 1500)
    write_jsonl(root / "metrics.jsonl", (
        {name: value * noise[step] for name, value in numbers.items()} | {"step": step, "hist/scale": row["hist/scale"]}
        for step in range(1500)
    ))  # fmt: skip
    page = render(read_run(root))
    assert len(page) < 1_500_000
    assert page.count("<figure>") >= 30


def test_histograms_whose_edges_changed(tmp_path):
    rows = [{"step": i, "hist/scale": {"edges": [0, 1, 2 + (i > 2)], "counts": [i, 0]}} for i in range(5)]
    write_jsonl(tmp_path / "metrics.jsonl", rows)
    assert "Distribution of the elastic scale" in page_of(tmp_path).words
