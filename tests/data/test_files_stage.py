"""stage=preprocess on files: what later stages read, what happened to every row, and what is printed."""

import json
import sys
import types
from collections import Counter

import pytest
from cli import run_cli
from own_data import preprocessed, rows_of, write_rows

from pipeline.common.errors import InputError, UsageError
from pipeline.common.files import read_jsonl
from pipeline.data.prompts import load_eval_prompts, load_prompts
from pipeline.data.templates import encode_prompt
from pipeline.data.tokenizer import load
from pipeline.rl.prompt_sampler import PromptSampler
from pipeline.run import manifests
from pipeline.run.catalog import STAGES, Job
from pipeline.run.compose import compose
from pipeline.sft import packing

STORY = "A shop sells {} pens and {} books each week. How many things does it sell in {} weeks?"
"""Fewer than 13 words are between its numbers, so that problems made of it do not contaminate each other."""


def good(i):
    a, b, c = 3 + i, 50 - i, 2 + i % 7
    text = STORY.format(a, b, c)
    steps = f"In one week {a}+{b}=<<{a}+{b}={a + b}>>{a + b}.\nIn all {(a + b) * c}.\n#### {(a + b) * c}"
    return {"id": i, "problem": text, "answer": str((a + b) * c), "solution": steps}


BAD = [
    "{not json",
    "[1, 2]",
    {"answer": "1"},
    {"problem": "Without an answer", "answer": ""},
    {"problem": ["a"], "answer": "1"},
    {"problem": "word " * 2000, "answer": "1"},
]
REASONS = {"not JSON", "not an object", "no problem", "empty answer", "wrong type", "problem too long"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    rows = [good(i) for i in range(40)]
    copy = good(0) | {"id": "copy", "problem": good(0)["problem"].replace("How", " how")}
    conflict = [{"problem": "Which of the two is it?", "answer": answer} for answer in ("1", "2")]
    write_rows(folder / "a.jsonl", [*rows[:20], *BAD, copy])
    write_rows(
        folder / "b.jsonl", [*rows[20:], *conflict, {"problem": "What is the capital of the sum 1+1?", "answer": 2}]
    )
    write_rows(folder / "eval.jsonl", [good(7), good(50), good(51), {"problem": "x"}])
    return preprocessed(
        folder, f"data.path={folder}/a.jsonl,{folder}/b.jsonl", f"data.eval_path.mine={folder}/eval.jsonl"
    )


def test_the_files_hold_what_is_kept(run):
    run, result = run
    train = rows_of(run, "train")
    assert {row["id"] for row in train} == {str(i) for i in range(40) if i != 7} | {"b-23"}
    assert train[0] == {"id": "0", "problem": good(0)["problem"], "answer": good(0)["answer"], "source": "a"}
    assert [row["id"] for row in rows_of(run, "eval/mine")] == ["7", "50", "51"]
    assert rows_of(run, "sft") == rows_of(run, "sft_mixed")
    assert rows_of(run, "sft")[0] == {
        "id": "0",
        "problem": good(0)["problem"],
        "response": "In one week 3+50=53.\nIn all 106.\n\nThe final answer is $\\boxed{106}$.",
        "source": "a",
    }
    assert len(rows_of(run, "sft")) == 39  # the capital has no solution
    assert result["rows"] == {"train": 40, "eval/mine": 3, "sft": 39}
    assert result["sources"] == {"a": 19, "b": 21}


def test_every_row_is_accounted_for(run):
    run, result = run
    for name, count in result["files"].items():
        assert count["read"] == sum(count.values()) - count["read"], name
    quarantine, dropped = rows_of(run, "quarantine"), rows_of(run, "dropped")
    assert {row["reason"] for row in quarantine if row["file"].endswith("a.jsonl")} == REASONS
    assert [row["line"] for row in quarantine if row["file"].endswith("a.jsonl")] == list(range(21, 27))
    assert [(row["line"], row["reason"]) for row in quarantine if "eval" in row["file"]] == [(4, "no answer")]
    assert Counter(row["reason"] for row in dropped) == {"duplicate": 1, "conflicting answers": 2, "contaminated": 1}
    found = next(row for row in dropped if row["reason"] == "contaminated")
    assert (found["id"], found["matched"]["set"], found["matched"]["id"]) == ("7", "mine", "7")
    assert (found["line"], found["matched"]["line"]) == (8, 1)


def test_later_stages_read_it(run):
    run, _ = run
    words = load(run.root / "preprocess" / "tokenizer")
    prompts = load_prompts(run, words)
    assert len({prompt.id for prompt in prompts}) == len(prompts) == 40
    assert prompts[0].token_ids == encode_prompt(good(0)["problem"], run.settings.data, words)
    assert prompts[0].gold == "106"
    assert {name: len(found) for name, found in load_eval_prompts(run, words).items()} == {"mine": 3}
    assert len({prompt.id for prompt in PromptSampler(prompts, 40, seed=0).next()}) == 40
    examples, dropped = packing.tokenize(
        list(read_jsonl(run.root / "preprocess/sft.jsonl")), run.settings.data, words, 512
    )
    assert (len(examples), dropped) == (39, 0)
    packed = packing.pack(examples, 512, words.pad_token_id)
    assert int((packed.labels != packing.IGNORED).sum()) == sum(len(e.tokens) - e.prompt_length for e in examples)
    assert words.decode(examples[0].tokens[examples[0].prompt_length :]).endswith("$\\boxed{106}$.</s>")


def test_prompts_that_are_too_long_go_into_quarantine(tmp_path):
    rows = [good(i) for i in range(6)] + [{"problem": good(9)["problem"] + " Really?" * 60, "answer": "1"}]
    write_rows(tmp_path / "a.jsonl", rows)
    run, _ = preprocessed(tmp_path, f"data.path={tmp_path}/a.jsonl", "rollout.max_prompt_tokens=150")
    (row,) = rows_of(run, "quarantine")
    assert (row["line"], row["reason"]) == (7, "prompt too long")
    assert "rollout.max_prompt_tokens allows 150" in row["detail"]
    assert len(rows_of(run, "train")) == 6


def test_limit_cuts_each_file_but_not_what_is_decontaminated_against(tmp_path):
    write_rows(tmp_path / "a.jsonl", [good(i) for i in range(9)])
    write_rows(tmp_path / "b.jsonl", [good(i) for i in range(20, 30)])
    write_rows(tmp_path / "e.jsonl", [good(i) for i in (40, 41, 42, 43, 44, 1)])
    paths = f"data.path={tmp_path}/a.jsonl,{tmp_path}/b.jsonl"
    run, _ = preprocessed(tmp_path, paths, f"data.eval_path.e={tmp_path}/e.jsonl", "data.limit=5")
    assert [row["id"] for row in rows_of(run, "train")] == ["0", "2", "3", "4", "20", "21", "22", "23", "24"]
    assert len(rows_of(run, "eval/e")) == 5


def test_warm_up_files_are_cleaned_and_decontaminated_too(tmp_path):
    write_rows(tmp_path / "a.jsonl", [good(i) for i in range(5)])
    write_rows(tmp_path / "s.jsonl", [good(10), good(11), good(10), {"problem": "p", "answer": "1"}, good(30)])
    write_rows(tmp_path / "e.jsonl", [good(30)])
    words = [
        f"data.path={tmp_path}/a.jsonl",
        f"data.sft_path={tmp_path}/s.jsonl",
        f"data.eval_path.e={tmp_path}/e.jsonl",
    ]
    run, result = preprocessed(tmp_path, *words)
    assert [row["id"] for row in rows_of(run, "sft")] == ["10", "11"]
    assert result["files"]["sft/s"] == {"read": 5, "no solution": 1, "duplicate": 1, "contaminated": 1, "kept": 2}


def test_evaluation_sets_of_an_earlier_run_are_removed(tmp_path):
    write_rows(tmp_path / "a.jsonl", [good(i) for i in range(5)])
    write_rows(tmp_path / "e.jsonl", [good(30)])
    path = f"data.path={tmp_path}/a.jsonl"
    run, _ = preprocessed(tmp_path, path, f"data.eval_path.old={tmp_path}/e.jsonl")
    preprocessed(tmp_path, path, f"data.eval_path.new={tmp_path}/e.jsonl")
    assert [file.name for file in (run.root / "preprocess" / "eval").iterdir()] == ["new.jsonl"]


def test_running_it_again_writes_the_same_bytes(tmp_path):
    write_rows(tmp_path / "a.jsonl", [good(i) for i in range(30)])
    contents = []
    for _ in range(2):
        run, _ = preprocessed(tmp_path, f"data.path={tmp_path}/a.jsonl")
        files = sorted(file for file in (run.root / "preprocess").rglob("*") if file.is_file())
        contents.append([(file.name, file.read_bytes()) for file in files])
    assert contents[0] == contents[1]


def test_empty_results_and_missing_files_are_errors(tmp_path):
    write_rows(tmp_path / "same.jsonl", [good(1)])
    path = f"data.path={tmp_path}/same.jsonl"
    with pytest.raises(InputError, match=r"nothing of the training problems: 1 contaminated"):
        preprocessed(tmp_path, path, f"data.eval_path.e={write_rows(tmp_path / 'copy.jsonl', [good(1)])}")
    assert json.loads((tmp_path / "runs/test/preprocess/dropped.jsonl").read_text())["reason"] == "contaminated"
    with pytest.raises(InputError, match=r"nothing of the training problems: 1 prompt too long"):
        preprocessed(tmp_path, path, "rollout.max_prompt_tokens=5")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    with pytest.raises(InputError, match="is empty"):
        preprocessed(tmp_path, f"data.path={tmp_path}/empty.jsonl")
    write_rows(tmp_path / "other.jsonl", [{"frage": "p", "antwort": "1"}])
    with pytest.raises(
        InputError,
        match=r"1 of them: no problem \(looked for the columns body\+question, problem, .*; the row has frage, ant",
    ):
        preprocessed(tmp_path, f"data.path={tmp_path}/other.jsonl")
    with pytest.raises(UsageError, match=r"data\.path is empty"):
        preprocessed(tmp_path)
    with pytest.raises(
        UsageError, match=r"same\.jsonl is given for training \(data\.path\) and for evaluation \(same\)"
    ):
        preprocessed(tmp_path, path, f"data.eval={tmp_path}/same.jsonl")
    with pytest.raises(UsageError, match="an evaluation set's name"):
        preprocessed(tmp_path, path, f"data.eval_path.a/b={tmp_path}/copy.jsonl")


def test_a_folder_is_an_input_by_its_content(tmp_path):
    write_rows(tmp_path / "set" / "train.jsonl", [good(1)])
    settings = compose(["stage=preprocess", "model=tiny", "data=math", f"data.path={tmp_path / 'set'}"])
    job = Job(STAGES["preprocess"], settings)
    before = manifests.state_of(job, tmp_path)
    assert manifests.state_of(job, tmp_path) == before
    write_rows(tmp_path / "set" / "train.jsonl", [good(2)])
    after = manifests.state_of(job, tmp_path)
    assert after.changed_from({"config": before.config, "inputs": before.inputs}) == [f"{tmp_path / 'set'} has changed"]


def test_the_command_line_runs_it_and_reports_a_missing_file(tmp_path):
    write_rows(tmp_path / "mine.jsonl", [good(i) for i in range(12)])
    words = [
        "stage=preprocess",
        "model=tiny",
        "data=math",
        "data.tokenizer=sentencepiece",
        f"runs_dir={tmp_path}",
        "name=t",
    ]
    done = run_cli(*words, "data.path=mine.jsonl", cwd=tmp_path)
    assert (done.code, done.err) == (0, "")
    assert "train.jsonl 12 rows" in done.out
    missing = run_cli(*words, "data.path=absent.jsonl", cwd=tmp_path)
    assert missing.code == 3
    assert missing.err.splitlines()[-1].startswith(f"{tmp_path}/absent.jsonl: no such file or folder")


def test_a_known_set_without_a_file_is_loaded_by_its_name(tmp_path, monkeypatch):
    write_rows(tmp_path / "train.jsonl", [good(1)])
    words = [f"data.path={tmp_path}/train.jsonl", "data.eval=aime24"]
    monkeypatch.setitem(sys.modules, "datasets", None)  # as where the package is not installed
    with pytest.raises(InputError, match=r"package datasets.* is not installed\. Download HuggingFaceH4/aime_2024"):
        preprocessed(tmp_path, *words)
    asked = []

    def load_dataset(name, config, split):
        asked.append((name, config, split))
        if len(asked) == 1:
            raise ConnectionError("no route\nto the hub")
        return [{"problem": "What is 1 + 1?", "answer": "2", "year": "2024"}]

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    with pytest.raises(InputError, match=r"could not be loaded \(no route\)\. Download"):
        preprocessed(tmp_path, *words)
    run, _ = preprocessed(tmp_path, *words)
    assert rows_of(run, "eval/aime24")[0]["answer"] == "2"
    preprocessed(tmp_path, *words)
    assert asked == [("HuggingFaceH4/aime_2024", None, "train")] * 2  # what was loaded stays


def test_known_sets_in_the_schemas_in_which_they_are_published(tmp_path):
    of_math500 = {
        "problem": "Sum?",
        "solution": "$\\boxed{7}$.",
        "answer": "7",
        "level": 2,
        "unique_id": "test/a/1.json",
    }
    published = {
        "AIME_2024.jsonl": {"id": 60, "problem": "What is 1 + 3?", "solution": "So.", "answer": "4", "year": "2024"},
        "aime25.jsonl": {"problem": "What is 2 + 3?", "answer": "5", "id": "0"},
        "amc23.jsonl": {"id": 0, "answer": 6.0, "question": "What is 3 + 3?", "url": "u"},
        "math-500.json": of_math500,
        "gsm8k_test.jsonl": {"question": "How many?", "answer": "4+4=<<4+4=8>>8\n#### 8"},
    }
    for name, row in published.items():
        write_rows(tmp_path / "sets" / name, [row])
    names = ["aime24", "aime25", "amc23", "math500", "gsm8k"]
    words = [f"data.eval={','.join(names)}", f"data.eval_folder={tmp_path}/sets"]
    run, _ = preprocessed(tmp_path, f"data.path={write_rows(tmp_path / 'train.jsonl', [good(1)])}", *words)
    answers = [rows_of(run, f"eval/{name}")[0]["answer"] for name in names]
    assert answers == ["4", "5", "6", "7", "8"]
    with pytest.raises(UsageError, match="there are no training problems"):
        preprocessed(tmp_path, *words, "sft.enabled=false")
