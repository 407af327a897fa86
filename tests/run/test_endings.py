"""How errors become exit codes and messages, also those that libraries wrap."""

import errno
import fcntl
import resource
import shutil
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from cli import preset
from torch.distributed.checkpoint.api import CheckpointException

from pipeline.common import files
from pipeline.common.errors import InputError
from pipeline.models.tensors import write_folder
from pipeline.run import cli
from pipeline.stage import explain
from pipeline.tracking.events import Events


def wrapped() -> Exception:
    """A full disk behind another error, as libraries raise it."""
    error = ValueError("cannot save")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device", "x.pt")
    return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "x.pt"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        wrapped(),
        CheckpointException("save", {1: (OSError(errno.ENOSPC, "No space left on device", "x.pt"), None)}),
        RuntimeError("[enforce fail at inline_container.cc:863] . PytorchStreamWriter failed writing file data/0"),
        RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0"),
    ],
)
def test_a_full_disk_is_told_as_such(error):
    code, message = explain(error)
    assert code == 3
    assert message.startswith("The disk is full")
    assert "the same command continues" in message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full, a disk that is always full")
def test_what_torch_and_python_really_raise_on_a_full_disk():
    with pytest.raises(Exception) as caught:  # noqa: PT011  any error
        torch.save({"a": torch.zeros(1 << 20)}, "/dev/full")
    assert explain(caught.value)[0] == 3
    with pytest.raises(Exception) as caught:  # noqa: PT011
        Path("/dev/full").write_bytes(b"x")
    assert explain(caught.value)[0] == 3


@contextmanager
def small_files():
    """No file may grow beyond 8 KiB, as on a disk that is nearly full. No fixture: pytest may write to a long file itself."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def archive(folder):
    with files.naming(folder / "x"):
        torch.save({"a": torch.zeros(1 << 14)}, folder / "x")


def weights(folder):
    (folder / "source").mkdir()
    write_folder(folder, [("a", torch.zeros(1 << 14))], sources=folder / "source")


def model(folder):
    with files.whole_folder(folder / "x") as temporary:
        temporary.mkdir()
        (temporary / "y").write_text("y" * 10_000)


def copy(folder):
    source = Path(torch.__file__)
    assert source.stat().st_size > 8192
    shutil.copyfile(source, folder / "x")


def tensorboard(folder):
    before, hook, events = set(threading.enumerate()), threading.excepthook, Events(folder / "x")
    threading.excepthook = lambda _: None  # TensorBoard writes in a thread, whose error `flush` raises
    events.add(1, 0.0, {"y" * 10_000: 1.0})
    try:
        events.flush()
    finally:
        for thread in set(threading.enumerate()) - before:
            thread.join(10)
        threading.excepthook = hook


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: files.append_jsonl(folder / "x", [{"text": "y" * 10_000}]),
        lambda folder: files.write_text(folder / "x", "y" * 10_000),
        archive,
        weights,
        model,
        copy,
        tensorboard,
    ],
)
def test_a_file_that_does_not_fit_is_named_whoever_writes_it(tmp_path, write):
    """torch's archives and safetensors keep only the text of the system's error, and Python's writes have no file's name."""
    with pytest.raises(Exception) as caught, small_files():  # noqa: PT011  any error
        write(tmp_path)
    code, message = explain(caught.value)
    assert code == 3, caught.value
    assert f" at {tmp_path}/" in message
    assert not list(tmp_path.glob(".x*"))


def test_a_file_where_a_folder_belongs_is_told_as_such(tmp_path):
    file = tmp_path / "checkpoints"
    file.write_text("")
    for use in (
        lambda: (file / "x").mkdir(),
        lambda: (file / "x").write_text(""),
        lambda: file.mkdir(exist_ok=True),
        tmp_path.read_text,
    ):
        with pytest.raises(OSError, match=r"irectory|exists") as caught:
            use()
        code, message = explain(caught.value)
        assert code == 3
        assert message.startswith(str(tmp_path))
        assert "Move it away" in message


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_folder_that_may_not_be_written_to_is_told_as_such(number):
    code, message = explain(OSError(number, "Not allowed", "the runs/shards"))
    assert code == 3
    assert message == (
        "the runs/shards cannot be read or written (Not allowed). Fix its permissions, or choose another folder: "
        "runs_dir=<folder>."
    )
    assert explain(OSError(number, "Not allowed"))[0] == 1  # no file: a signal, a socket


@pytest.mark.skipif(not Path("/proc/self/fdinfo").exists(), reason="needs a folder in which nobody may make files")
def test_a_run_in_a_folder_of_the_kernels(call):
    code, err = call("stage=preprocess", "runs_dir=/proc/self/fdinfo")
    assert code == 2
    assert "runs_dir=/proc/self/fdinfo" in err
    assert "cannot be written to" in err


def test_other_errors_keep_their_codes():
    assert explain(InputError("x is missing")) == (3, "x is missing")
    assert explain(InputError("see why: No space left on device"))[0] == 3
    assert explain(ValueError("odd")) == (1, "ValueError: odd")
    assert explain(OSError(errno.EADDRINUSE, "Address already in use"))[0] == 2


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code = cli.main([*words, f"model={preset(tmp_path)}"])
        return code, capfd.readouterr().err

    return run


def test_a_runs_folder_that_cannot_be_one(tmp_path, call):
    (tmp_path / "a file").write_text("")
    code, err = call("stage=preprocess", f"runs_dir={tmp_path / 'a file'}")
    assert code == 2
    assert "cannot be written to" in err


def test_the_same_stage_of_the_same_run_twice_at_once(tmp_path, call):
    folder = tmp_path / "runs" / "mini" / "preprocess"
    folder.mkdir(parents=True)
    with open(folder / "lock.node0", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        code, err = call("stage=preprocess", f"runs_dir={tmp_path / 'runs'}")
    assert code == 2
    assert "is running already" in err


def test_the_command_that_is_missing_can_be_pasted_into_a_shell(tmp_path, call):
    code, err = call("stage=convert", f"runs_dir={tmp_path / 'my runs'}", "name=a b")
    assert code == 3
    assert "'name=a b'" in err
    assert f"'runs_dir={tmp_path / 'my runs'}'" in err


@pytest.mark.parametrize(("stage", "checkpoint"), [("evaluate", "befor"), ("export", "afte")])
def test_a_misspelled_checkpoint_gets_the_right_word(tmp_path, call, stage, checkpoint):
    code, err = call(f"stage={stage}", f"{stage}.checkpoint={checkpoint}", f"runs_dir={tmp_path}")
    assert code == 2
    assert "Did you mean" in err


def test_a_checkpoint_folder_that_is_not_there(tmp_path, call):
    code, err = call("stage=export", f"export.checkpoint={tmp_path / 'none'}", f"runs_dir={tmp_path}")
    assert code == 3
    assert "there is no such folder" in err
