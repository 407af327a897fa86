"""A world of one rank in the test's own process, for the rungs that need Megatron."""

import pytest


@pytest.fixture(scope="session")
def world():
    """Joined for the session; ends in order."""
    from megatron_patches import parallel
    from pipeline.settings import Layout

    parallel.initialize(Layout(), seed=0)
    yield parallel
    parallel.finish()
