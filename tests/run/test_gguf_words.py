"""`model=<file>.gguf` on the command line, up to where transformers reads the file (tests/model/test_gguf.py has the rest)."""

import importlib.util
import json

import pytest

from pipeline.common.errors import InputError, UsageError
from pipeline.run import cli, gguf
from pipeline.run.door import check_names


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(100))
    return tmp_path


def told(text):
    raise AssertionError(f"nothing should be said: {text}")


def made_before(place):
    """The folder as an earlier command left it."""
    folder, state = place / "a-gguf", (place / "a.gguf").stat()
    folder.mkdir()
    (folder / "gguf.json").write_text(json.dumps({"size": state.st_size, "changed_ns": state.st_mtime_ns}))
    return folder


def test_the_folder_takes_the_files_place_and_is_made_once(place):
    folder = made_before(place)
    words = ["stage=rl", "model=a.gguf", "name=x.gguf", f"model.path={place}/a.gguf"]
    assert check_names(words) is None
    assert gguf.with_folders(words, told) == ["stage=rl", f"model={folder}", "name=x.gguf", f"model.path={folder}"]


def test_a_changed_file_is_made_again(place, monkeypatch):
    made_before(place)
    (place / "a.gguf").write_bytes(b"GGUF" + bytes(101))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError):  # it gets as far as the packages
        gguf.with_folders(["model=a.gguf"], told)


def test_a_missing_package_is_named_with_the_command(place, monkeypatch, capsys):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "gguf" else name)
    assert cli.main(["stage=rl", "model=a.gguf"]) == 2
    said = capsys.readouterr().err
    assert "gguf is not installed" in said
    assert "accelerate is not installed" not in said
    assert "ETR_EXTRAS=gguf" in said
    assert "-m pip install accelerate==" in said


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "there is no such file"), (b"", "is not a GGUF file"), (b"PK\x03\x04 a zip file", "is not a GGUF file")],
)
def test_what_is_no_gguf_file_is_refused(place, content, said):
    if content is not None:
        (place / "b.gguf").write_bytes(content)
    with pytest.raises(InputError, match=rf"b\.gguf:? {said}"):
        gguf.with_folders(["model=b.gguf"], told)


def test_another_folder_of_that_name_is_not_replaced(place):
    (place / "a-gguf").mkdir()
    (place / "a-gguf" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="holds something else"):
        gguf.with_folders(["model=a.gguf"], told)
    assert (place / "a-gguf" / "thesis.tex").read_text() == "years of work"


def test_the_other_process_says_what_is_wrong_with_a_file(place):
    """A header of zeros: the process that reads it ends with exit code 3 and one sentence."""
    for name in gguf.PACKAGES:
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"the package {name} is not installed (ETR_EXTRAS=gguf adds it)")
    said = []
    with pytest.raises(InputError, match=r"a\.gguf is damaged or cut off"):
        gguf.with_folders(["model=a.gguf"], said.append)
    assert said == [f"making {place}/a-gguf of {place}/a.gguf (once)"]
