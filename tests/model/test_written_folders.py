"""Folders of weights that this project writes: whole, readable by whoever the umask admits, and fit to generate from."""

import os
import stat

import pytest
import torch
from tiny_models import tiny_model

from pipeline.models.folders import random_model
from pipeline.models.tensors import readable, write_folder


@pytest.fixture(params=[0o022, 0o027], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder):
    return {file.name: stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()}


def test_all_files_follow_the_umask(tmp_path, umask):
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "config.json").write_text("{}")
    tensors = [(name, torch.ones(4)) for name in "abc"]
    for shard_bytes in (1 << 20, 16):  # one file, and one for each tensor with an index
        write_folder(tmp_path / "made", tensors, tmp_path / "source", shard_bytes)
        assert set(modes(tmp_path / "made").values()) == {0o666 & ~umask}


def test_what_transformers_wrote_follows_the_umask_too(tmp_path, umask):
    random_model(tiny_model("llama"), 50, {}, seed=0).save_pretrained(str(tmp_path))
    readable(tmp_path)
    assert set(modes(tmp_path).values()) == {0o666 & ~umask}
