"""One pool for all tests of this folder, and the folder itself on the path for its tables."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.verify import VerifierPool

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def pool() -> Iterator[VerifierPool]:
    with VerifierPool(workers=2, timeout_s=10.0) as shared:
        yield shared


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real problems and fixtures that lies beside the project, never in it."""
    folder = Path(__file__).resolve().parents[3] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("../shared/data is absent: there are no fixtures to compare with")
    return folder
