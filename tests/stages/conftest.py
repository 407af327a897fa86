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
