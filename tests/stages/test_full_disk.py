"""The disk fills in the middle of a save. All places by hand: full_disk.py."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import full_disk


@pytest.mark.long  # about 40 s of two cores
@pytest.mark.parametrize("name", ["save: a file of rank 1", "sft: its save"])
def test_a_full_disk_is_named_and_the_same_command_continues_exactly(house, name, tmp_path):
    if not full_disk.small_disk(tmp_path / "trial"):
        pytest.skip("no tmpfs can be mounted here: only root may")
    full_disk.unmount(tmp_path / "trial")
    place = next(place for place in full_disk.PLACES if place.name == name)
    said, wrong = full_disk.filled(house, place)
    assert not wrong, said
