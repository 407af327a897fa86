"""Sets that a finished run was not prepared with: read beside it, and compared with what it trained on."""

import pytest
from own_data import preprocessed, write_rows

from pipeline.common.errors import InputError
from pipeline.common.files import read_jsonl
from pipeline.data import measured_sets
from pipeline.data.tokenizer import load
from pipeline.settings import Data
from pipeline.stage import StageRun

TEXTS = [f"A shop sells {7 + i} pens and {50 - i} books each week, how many things in {i} weeks?" for i in range(6)]


def row(text):
    return {"problem": text, "answer": "1"}


@pytest.fixture
def run(tmp_path):
    """A prepared run that trains on the first four problems."""
    write_rows(tmp_path / "train.jsonl", [row(text) for text in TEXTS[:4]])
    write_rows(tmp_path / "own.jsonl", [row("What is 1 + 1?")])
    return preprocessed(tmp_path, f"data.path={tmp_path}/train.jsonl", f"data.eval={tmp_path}/own.jsonl")[0]


def with_sets(run, **sets):
    data = Data(eval_path={name: str(path) for name, path in sets.items()})
    return StageRun(run.settings.model_copy(update={"data": data}), run.root)


def test_problems_that_the_run_has_trained_on_are_counted_and_said(run, tmp_path, capsys):
    before = {path: path.read_bytes() for path in run.root.rglob("*.jsonl")}
    new = write_rows(tmp_path / "new.jsonl", [row(text) for text in (TEXTS[4], TEXTS[1], TEXTS[2].upper(), TEXTS[5])])
    other = write_rows(tmp_path / "other.jsonl", [row(TEXTS[5]), {"problem": "no answer"}])
    folder = run.root / "evaluate" / "sets" / "after.new"
    found = measured_sets.prepare(
        with_sets(run, new=new, other=other), folder, load(run.root / "preprocess" / "tokenizer")
    )
    assert found == {"new": 2, "other": 0}
    assert "WARNING: 2 of the 4 problems of new are also in the training data of this run" in capsys.readouterr().out
    assert [entry["problem"] for entry in read_jsonl(folder / "new.jsonl")] == [
        TEXTS[4], TEXTS[1], TEXTS[2].upper(), TEXTS[5],
    ]  # fmt: skip
    quarantine = list(read_jsonl(folder.with_name("after.new.quarantine.jsonl")))
    assert [(entry["line"], entry["reason"]) for entry in quarantine] == [(2, "no answer")]
    assert {path: path.read_bytes() for path in before} == before


def test_a_set_of_which_nothing_fits_is_named(run, tmp_path):
    new = write_rows(tmp_path / "long.jsonl", [row("word " * 3000)])
    with pytest.raises(InputError, match=r"No problem of long fits into rollout\.max_prompt_tokens"):
        measured_sets.prepare(
            with_sets(run, long=new), run.root / "evaluate" / "sets" / "x", load(run.root / "preprocess" / "tokenizer")
        )
