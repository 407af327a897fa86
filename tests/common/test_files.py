"""Files that survive a crash at any byte."""

import json
import os

import numpy as np
import pytest

from pipeline.common.errors import InputError
from pipeline.common.files import append_jsonl, read_json, read_jsonl, write_json, write_jsonl, write_text

ROWS = [{"text": "é😀\n", "n": n, "list": [1, {"a": None}]} for n in range(3)]


def test_after_truncation_at_any_byte_whole_rows_are_read_and_the_next_append_repairs(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, ROWS)
    whole = path.read_bytes()
    ends = [position + 1 for position, byte in enumerate(whole) if byte == ord("\n")]
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        # A row counts as written once its closing brace is there, with or without its newline.
        expected = ROWS[: sum(end - 1 <= cut for end in ends)]
        assert list(read_jsonl(path)) == expected, cut
        append_jsonl(path, [{"next": True}])
        assert [json.loads(line) for line in path.read_text("utf-8").splitlines()] == [*expected, {"next": True}], cut


def test_a_truncated_line_longer_than_the_repair_block_is_removed(tmp_path):
    path = tmp_path / "rows.jsonl"
    append_jsonl(path, [{"short": 1}])
    with open(path, "ab") as file:
        file.write(b'{"long": "' + b"x" * 200_000)
    append_jsonl(path, [{"next": 2}])
    assert list(read_jsonl(path)) == [{"short": 1}, {"next": 2}]


@pytest.mark.parametrize("bad", [b"{broken\n", b'"text"\n', b"\xff\xfe\n"])
def test_a_bad_line_in_the_middle_is_an_error_that_names_it(tmp_path, bad):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + bad + b'{"b": 2}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl, line 2"):
        list(read_jsonl(path))


def test_missing_files_are_input_errors(tmp_path):
    with pytest.raises(InputError, match=r"nothing\.jsonl"):
        list(read_jsonl(tmp_path / "nothing.jsonl"))
    with pytest.raises(InputError, match=r"nothing\.json"):
        read_json(tmp_path / "nothing.json")


def test_an_interrupted_write_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, ROWS)

    def rows():
        yield {"a": 1}
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        write_jsonl(path, rows())
    assert list(read_jsonl(path)) == ROWS
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_numbers_of_other_libraries_are_written_plainly_and_other_objects_are_errors(tmp_path):
    write_json(tmp_path / "a.json", {"x": np.float32(0.5), "y": np.arange(3), "p": tmp_path, "s": {2, 1}})
    assert read_json(tmp_path / "a.json") == {"x": 0.5, "y": [0, 1, 2], "p": str(tmp_path), "s": [1, 2]}
    with pytest.raises(TypeError, match="object"):
        write_json(tmp_path / "b.json", {"x": object()})


def test_text_written_by_a_lone_surrogate_can_be_read_again(tmp_path):
    append_jsonl(tmp_path / "a.jsonl", [{"text": "\ud800"}])
    assert len(list(read_jsonl(tmp_path / "a.jsonl"))) == 1
    write_text(tmp_path / "deep" / "b.txt", "é")
    assert (tmp_path / "deep" / "b.txt").read_text("utf-8") == "é"
