"""Files in the schemas and forms that people have: each is read by itself, by one documented key, or refused by its form.

The schemas are those of public data sets; the rows are made up.
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import pickle
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.common.errors import InputError, UsageError
from pipeline.data.intake import Intake
from pipeline.settings import Data

PAIRS = [("What is 1+1, the café's sum?", "2"), ("What is 2+3?", "5"), ("What is\n4+5?", "9")]
SOLVED = [(problem, answer, f"It is clear.\nSo \\boxed{{{answer}}}.") for problem, answer in PAIRS]
SYSTEM = {"role": "system", "content": "You are a helpful assistant."}
DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of the form Answer: $Answer "
    "(without quotes) where $Answer is the answer to the problem.\n\n{}\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)


def user(text):
    return [{"role": "user", "content": text}]


SCHEMAS = {
    "gsm8k": [{"question": p, "answer": f"So <<1+1=2>>.\n#### {a}"} for p, a in PAIRS],
    "gsm8k for verl": [
        {
            "data_source": "openai/gsm8k",
            "prompt": user(f'{p} Let\'s think step by step and output the final answer after "####".'),
            "reward_model": {"ground_truth": a, "style": "rule"},
            "extra_info": {"answer": f"So.\n#### {a}", "index": 0, "question": p},
        }
        for p, a in PAIRS
    ],
    "math": [{"problem": p, "level": "Level 5", "type": "Algebra", "solution": s} for p, _, s in SOLVED],
    "math-500": [{"problem": p, "solution": s, "answer": a, "unique_id": p} for p, a, s in SOLVED],
    "dapo-17k": [
        {
            "data_source": "math_dapo",
            "prompt": user(DAPO.format(p)),
            "reward_model": {"ground_truth": a},
            "extra_info": {"index": p},
        }
        for p, a in PAIRS
    ],
    "dapo for slime": [{"prompt": user(p), "label": a} for p, a in PAIRS],
    "skywork-or1": [
        {
            "prompt": user(p),
            "reward_model": {"ground_truth": json.dumps([a]), "style": "rule"},
            "extra_info": {"index": 1},
        }
        for p, a in PAIRS
    ],
    "deepscaler": [{"problem": p, "answer": a, "solution": s} for p, a, s in SOLVED],
    "orz": [[{"from": "human", "value": p}, {"from": "assistant", "ground_truth": {"value": a}}] for p, a in PAIRS],
    "openr1": [
        {
            "problem": p,
            "solution": s,
            "answer": a,
            "messages": [*user(p), {"role": "assistant", "content": s}],
            "is_complete": [True],
        }
        for p, a, s in SOLVED
    ],
    "numina-cot": [{"source": "aops", "problem": p, "solution": s, "messages": user(p)} for p, _, s in SOLVED],
    "aime 2024": [{"ID": f"2024-I-{a}", "Problem": p, "Solution": s, "Answer": int(a)} for p, a, s in SOLVED],
    "aime 2025": [{"question": p, "answer": a} for p, a in PAIRS],
    "olympiadbench": [
        {"question": p, "solution": [s], "final_answer": [a], "answer_type": "Numerical"} for p, a, s in SOLVED
    ],
    "omni-math": [
        {"domain": ["Algebra"], "difficulty": 5.0, "problem": p, "solution": s, "answer": a} for p, a, s in SOLVED
    ],
    "minerva": [{"problem": p, "type": "x", "solution": s, "idx": 0} for p, _, s in SOLVED],
    "chat with a system message": [{"messages": [SYSTEM, *user(p)], "answer": a} for p, a in PAIRS],
    "sharegpt": [{"conversations": [{"from": "human", "value": p}, {"from": "gpt", "value": s}]} for p, _, s in SOLVED],
    "content parts": [
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": p}]}], "label": a} for p, a in PAIRS
    ],
    "svamp": [
        {"ID": p, "Body": p.partition("\n")[0], "Question": p.partition("\n")[2], "Answer": float(a)}
        for p, a in PAIRS[2:]
    ],
    "aime 1983-2024": [
        {"ID": f"1983-{a}", "Year": 1983, "Problem Number": 1, "Question": p, "Answer": a, "Part": "I"}
        for p, a in PAIRS
    ],
    "amc23": [{"id": p, "question": p, "answer": float(a), "url": "u"} for p, a in PAIRS],
    "deepmath": [{"question": p, "final_answer": a, "difficulty": 4.5, "r1_solution_1": "So."} for p, a in PAIRS],
    "openmathreasoning": [{"problem": p, "expected_answer": a, "generated_solution": s} for p, a, s in SOLVED],
    "eurus": [
        {"prompt": [SYSTEM, *user(p)], "ability": "math", "reward_model": {"ground_truth": a, "style": "rule"}}
        for p, a in PAIRS
    ],
    "tulu": [{"messages": user(p), "ground_truth": a, "dataset": "gsm8k"} for p, a in PAIRS],
    "asdiv": [
        {"body": p.partition("\n")[0], "question": p.partition("\n")[2], "answer": f"{a} (apples)"}
        for p, a in PAIRS[2:]
    ],
    "input and target": [{"input": p, "target": a} for p, a in PAIRS],
}
"""Schema -> rows that are read without any setting."""
KEYED = {
    "metamath": ([{"query": p, "original_question": p, "response": s} for p, _, s in SOLVED], {"solution": "response"}),
    "ground truth elsewhere": (
        [{"task": p, "meta": {"gold": a}} for p, a in PAIRS],
        {"problem": "task", "answer": "meta.gold"},
    ),
    "s1k": ([{"question": p, "solution": a, "cot_type": "math"} for p, a in PAIRS], {"answer": "solution"}),
    "alpaca": (
        [{"instruction": p, "output": s} for p, _, s in SOLVED],
        {"problem": "instruction", "solution": "output"},
    ),
    "aqua": ([{"question": p, "correct": a} for p, a in PAIRS], {"answer": "correct"}),
}
"""Schema -> rows and the columns that have to be named."""


def read(path, **data):
    """(problem, answer) of every row that is kept, and what is in quarantine."""
    intake = Intake(Data(path=[str(path)], **data))
    return [(found.problem, found.answer) for found in intake.train()], intake.quarantine


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def expected(name):
    return PAIRS[2:] if name in ("svamp", "asdiv") else PAIRS


@pytest.mark.parametrize("name", SCHEMAS)
def test_public_schemas_are_read_without_settings(tmp_path, name):
    (tmp_path / "a.jsonl").write_text(jsonl(SCHEMAS[name]), "utf-8")
    assert read(tmp_path / "a.jsonl") == (expected(name), [])
    (tmp_path / "a.json").write_text(json.dumps(SCHEMAS[name], indent=2), "utf-8")
    assert read(tmp_path / "a.json") == (expected(name), [])
    if name != "orz":
        pq.write_table(pa.Table.from_pylist(SCHEMAS[name]), tmp_path / "a.parquet")
        assert read(tmp_path / "a.parquet") == (expected(name), [])


@pytest.mark.parametrize("name", KEYED)
def test_other_schemas_are_read_once_their_columns_are_named(tmp_path, name):
    rows, columns = KEYED[name]
    (tmp_path / "a.jsonl").write_text(jsonl(rows), "utf-8")
    with pytest.raises(
        InputError, match=r"no (problem|answer) \(looked for the columns .*; the row has .*Name the columns"
    ):
        read(tmp_path / "a.jsonl")
    assert read(tmp_path / "a.jsonl", columns=columns) == (PAIRS, [])


ROWS = [{"problem": problem, "answer": answer} for problem, answer in PAIRS]
LINES = jsonl(ROWS)


def table(delimiter, header=("problem", "answer")):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([header, *PAIRS])
    return text.getvalue()


FORMS = {
    "lines.jsonl": LINES.encode(),
    "bom.jsonl": b"\xef\xbb\xbf" + LINES.encode(),
    "crlf.jsonl": LINES.replace("\n", "\r\n").encode(),
    "cr.jsonl": LINES.replace("\n", "\r").encode(),
    "utf16.jsonl": LINES.encode("utf-16"),
    "utf16le.jsonl": LINES.encode("utf-16-le"),
    "utf16be.jsonl": LINES.encode("utf-16-be"),
    "comma.csv": table(",").encode(),
    "excel.csv": b"\xef\xbb\xbf" + table(";").encode(),
    "tab.tsv": table("\t").encode(),
    "unnamed": table(",", ("Question", "Answer")).encode(),
    "utf16.csv": table("\t").encode("utf-16"),
    "cr.csv": table(",").replace("\r\n", "\r").encode(),
    "indented.json": json.dumps(ROWS, indent=4).encode(),
    "objects.json": "\n".join(json.dumps(row, indent=2) for row in ROWS).encode(),
    "data.json": json.dumps({"version": 1, "data": ROWS}).encode(),
    "train.json": json.dumps({"train": ROWS, "test": ROWS[:1]}, indent=1).encode(),
    "numbered.json": json.dumps({str(i): row for i, row in enumerate(ROWS)}).encode(),
    "columns.json": json.dumps({"problem": [p for p, _ in PAIRS], "answer": [a for _, a in PAIRS]}).encode(),
    "pandas.json": json.dumps({name: {i: row[name] for i, row in enumerate(ROWS)} for name in ROWS[0]}).encode(),
    "split.json": json.dumps({"columns": ["problem", "answer"], "index": [0, 1, 2], "data": PAIRS}).encode(),
    "arrays.json": json.dumps([["problem", "answer"], *PAIRS]).encode(),
    "viewer.json": json.dumps({"rows": [{"row_idx": i, "row": row} for i, row in enumerate(ROWS)]}).encode(),
    "lines.jsonl.gz": gzip.compress(LINES.encode()),
    "lines.jsonl.bz2": bz2.compress(LINES.encode()),
    "lines.jsonl.xz": lzma.compress(LINES.encode()),
    "table.csv.gz": gzip.compress(table(",").encode()),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_files_are_told_by_their_content(tmp_path, name):
    (tmp_path / name).write_bytes(FORMS[name])
    assert read(tmp_path / name) == (PAIRS, [])
    (tmp_path / "nameless").write_bytes(FORMS[name])
    assert read(tmp_path / "nameless") == (PAIRS, [])


def test_one_indented_object_is_one_row(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(ROWS[0], indent=2))
    assert read(tmp_path / "a.json") == (PAIRS[:1], [])


def test_numbered_objects_keep_their_keys_as_ids(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({f"q{i}": row for i, row in enumerate(ROWS)}))
    assert [found.id for found in Intake(Data(path=[str(tmp_path / "a.json")])).train()] == ["q0", "q1", "q2"]


def test_other_encodings_are_named_or_set(tmp_path):
    (tmp_path / "a.csv").write_bytes(table(",").encode("latin-1"))
    (tmp_path / "a.jsonl").write_bytes(LINES.encode("latin-1"))
    (tmp_path / "b.jsonl").write_bytes(jsonl(ROWS[:1]).encode("latin-1"))
    for name in ("a.csv", "a.jsonl", "b.jsonl"):
        found, _ = read(tmp_path / name, encoding="latin-1")
        assert found == PAIRS[: len(found)]
    for name in ("a.csv", "a.jsonl"):  # what can be read is kept
        found, quarantine = read(tmp_path / name)
        assert found == PAIRS[1:]
        assert [row["reason"] for row in quarantine] == ["not UTF-8"]
        assert "data.encoding=latin-1" in quarantine[0]["detail"]
    with pytest.raises(InputError, match=r"b\.jsonl is not text in UTF-8\. Name its encoding \(data\.encoding=latin-1"):
        read(tmp_path / "b.jsonl")
    with pytest.raises(UsageError, match=r"data\.encoding=klingon: Python knows no such encoding"):
        read(tmp_path / "a.csv", encoding="klingon")


def archive():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("a.jsonl", LINES)
    return content.getvalue()


REFUSED = {
    "book.xlsx": (archive(), "a zip archive or an Excel workbook"),
    "page.jsonl": (b"<!DOCTYPE html>\n<html>Sign in</html>", "a web page instead of data"),
    "pointer.parquet.jsonl": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer"),
    "rows.pkl": (pickle.dumps(ROWS), "a Python pickle"),
    "rows.npy": (b"\x93NUMPY\x01\x00v\x00", "a NumPy array"),
    "rows.zst": (b"\x28\xb5\x2f\xfd\x04\x00", "compressed with zstd"),
    "noise": (bytes(range(256)), "is not text, and no form of data file that is known"),
    "prose.txt": (b"Once upon a time\nthere was a file.\n", "line 1 is 'Once upon a time', which is neither a JSON"),
    "arrays.json": (json.dumps(PAIRS).encode(), "an array of arrays, whose columns have no names"),
    "texts.json": (json.dumps([p for p, _ in PAIRS]).encode(), "an array of texts, without answers"),
    "lists.json": (json.dumps({"a": ROWS, "b": ROWS}).encode(), "no rows were found (its keys: a, b)"),
    "uneven.json": (b'{"problem": ["a", "b"], "answer": ["1"]}', "differ in length: problem 2, answer 1"),
    "quote.csv": (b'problem,answer\n"What is "this"?",1\n', "line 2: not CSV"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_other_forms_are_refused_by_name_and_once(tmp_path, name):
    content, said = REFUSED[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(tmp_path / name)
    text = str(caught.value)
    assert said in text
    assert text.count(name) == 1
    assert text.count("JSON lines") <= 1
    assert "not JSON" not in text


def test_two_golds_are_one_too_many(tmp_path):
    rows = [*ROWS, {"problem": "What are the roots?", "answer": ["1", "2"]}]
    (tmp_path / "a.jsonl").write_text(jsonl(rows), "utf-8")
    found, quarantine = read(tmp_path / "a.jsonl")
    assert found == PAIRS
    assert [(row["reason"], row["detail"]) for row in quarantine] == [
        ("several values", "the answer has 2 values; one is wanted")
    ]


def test_a_table_with_a_short_line(tmp_path):
    (tmp_path / "a.csv").write_text("problem,answer\nWhat?\nWhat is 2+3?,5\n\n")
    found, quarantine = read(tmp_path / "a.csv")
    assert found == [PAIRS[1]]
    assert [(row["line"], row["reason"], row["detail"]) for row in quarantine] == [
        (2, "wrong number of columns", "1, and the header has 2")
    ]
