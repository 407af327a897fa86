"""One very small prepared run, shared by all tests of this folder."""

import pytest
from house import House


@pytest.fixture(scope="session")
def house(tmp_path_factory):
    """The run `micro` with preprocess, warm-up and convert done; other runs can be made beside it."""
    house = House(tmp_path_factory.mktemp("a house") / "of mine")  # spaces must not matter
    for stage in ("preprocess", "sft", "convert"):
        result = house.run(stage)
        assert result.code == 0, result.err
    yield house
    house.close()


@pytest.fixture(scope="session")
def trained(house):
    """The folder of the run `straight`, whose rl stage nothing disturbed: what other runs are compared with."""
    folder = house.copy("straight", "preprocess", "convert")
    result = house.run("rl", name="straight")
    assert result.code == 0, result.err
    return folder
