"""Every kind of file and folder is read row by row; what cannot be read is refused."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from own_data import write_rows

from pipeline.common.errors import InputError
from pipeline.data.sources import Source

ROWS = [{"problem": f"What is {i}+1?", "answer": str(i + 1)} for i in range(5)]


def read(path, split="train"):
    return [row.value for row in Source(str(path), split)]


def save_arrow(path, rows):
    """As `Dataset.save_to_disk` writes one file of a data set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def save_to_disk(folder, rows):
    save_arrow(folder / "data-00000-of-00002.arrow", rows[:3])
    save_arrow(folder / "data-00001-of-00002.arrow", rows[3:])
    files = [{"filename": f"data-0000{i}-of-00002.arrow"} for i in range(2)]
    (folder / "state.json").write_text(json.dumps({"_data_files": files, "_split": "train"}))
    (folder / "dataset_info.json").write_text("{}")


def test_files_of_every_kind(tmp_path):
    write_rows(tmp_path / "a.jsonl", ROWS)
    (tmp_path / "b.json").write_text(json.dumps(ROWS, indent=1))
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet", row_group_size=2)
    save_arrow(tmp_path / "e.arrow", ROWS)
    with pa.OSFile(str(tmp_path / "f.feather"), "wb") as file:
        table = pa.Table.from_pylist(ROWS)
        with pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)
    for name in ("a.jsonl", "b.json", "c.jsonl.gz", "d.parquet", "e.arrow", "f.feather"):
        assert read(tmp_path / name) == ROWS, name


def test_lines_that_are_not_rows_are_yielded_with_their_fault_and_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + b'{"a": 1}\n\n{"a": \n"\xff"\n[1]\n{"a": 2}')
    rows = list(Source(str(path), "train"))
    assert [(row.line, row.value, (row.fault or "").partition(" (")[0]) for row in rows] == [
        (1, {"a": 1}, ""),
        (3, '{"a": ', "not JSON"),
        (4, '"\ufffd"', "not UTF-8"),
        (5, [1], ""),
        (6, {"a": 2}, ""),
    ]


def test_json_lines_that_begin_with_a_list_are_lines(tmp_path):
    path = write_rows(tmp_path / "a.jsonl", ["[1, 2]", *ROWS])
    assert read(path) == [[1, 2], *ROWS]


def test_saved_data_sets(tmp_path):
    save_to_disk(tmp_path / "one", ROWS)
    assert read(tmp_path / "one") == ROWS
    for split in ("train", "test"):
        save_to_disk(tmp_path / "both" / split, ROWS if split == "train" else ROWS[::-1])
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert read(tmp_path / "both", "test") == ROWS[::-1]
    with pytest.raises(InputError, match=r"splits test, train, but not dev. Set data.split"):
        read(tmp_path / "both", "dev")


def test_hub_folders_by_file_name_folder_name_and_readme(tmp_path):
    pq_folder = tmp_path / "named" / "data"
    pq_folder.mkdir(parents=True)
    for name, rows in (
        ("train-00000-of-00002", ROWS[:2]),
        ("train-00001-of-00002", ROWS[2:]),
        ("test-00000", ROWS[:1]),
    ):
        pq.write_table(pa.Table.from_pylist(rows), pq_folder / f"{name}.parquet")
    (tmp_path / "named" / ".cache").mkdir()
    write_rows(tmp_path / "named" / ".cache" / "train.jsonl", ["junk"])
    assert read(tmp_path / "named") == ROWS
    assert read(tmp_path / "named", "test") == ROWS[:1]

    write_rows(tmp_path / "folders" / "train" / "part.jsonl", ROWS)
    write_rows(tmp_path / "folders" / "dev" / "part.jsonl", ROWS[:2])
    assert read(tmp_path / "folders", "validation") == ROWS[:2]

    write_rows(tmp_path / "described" / "x" / "1.jsonl", ROWS)
    write_rows(tmp_path / "described" / "y" / "1.jsonl", ROWS[:3])
    (tmp_path / "described" / "README.md").write_text(
        "---\nconfigs:\n- config_name: other\n  data_files: z/*\n- config_name: default\n  data_files:\n"
        "  - {split: train, path: x/*}\n  - {split: test, path: [y/*.jsonl]}\n---\n# A data set\n"
    )
    assert read(tmp_path / "described", "test") == ROWS[:3]


def test_a_folder_with_one_split_is_that_split(tmp_path):
    write_rows(tmp_path / "set" / "train.jsonl", ROWS)
    assert read(tmp_path / "set", "test") == ROWS


def test_missing_and_truncated_files_are_named(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        Source(str(tmp_path / "absent.jsonl"), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no data files"):
        Source(str(tmp_path / "empty"), "train")

    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    save_arrow(tmp_path / "b.arrow", ROWS)
    whole = (tmp_path / "b.arrow").read_bytes()
    (tmp_path / "b.arrow").write_bytes(whole[: len(whole) - 200])
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"a": 1}\n' * 999)[:40])
    (tmp_path / "d.parquet").write_bytes(b"<html>not found</html>\xff\n")
    for name in ("a.parquet", "b.arrow", "c.jsonl.gz", "d.parquet"):
        with pytest.raises(InputError, match="cannot be read"):
            read(tmp_path / name)

    save_to_disk(tmp_path / "saved", ROWS)
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(InputError, match=r"data-00001-of-00002.arrow is missing"):
        Source(str(tmp_path / "saved"), "train")
    (tmp_path / "saved" / "state.json").write_text("{}")
    with pytest.raises(InputError, match="cannot be understood"):
        Source(str(tmp_path / "saved"), "train")


def test_position_grows_to_the_size(tmp_path):
    source = Source(str(write_rows(tmp_path / "a.jsonl", ROWS)), "train")
    seen = [source.position for _ in source]
    assert seen == sorted(seen)
    assert source.position == source.size > 0
