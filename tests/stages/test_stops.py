"""A rank that is stopped in the middle of a run. All phases by hand: stops.py."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import stops


@pytest.mark.long  # about 35 s, of which 15 are the limit and nothing works
def test_a_rank_that_is_stopped_in_its_update_ends_the_run_by_name_within_the_limit(house):
    stop = next(stop for stop in stops.STOPS if stop.name == "update")
    trial = stops.trial_of(house, stop)
    found = stops.stopped(trial, stop, stops.LIMIT_MINUTES)
    assert not [text for text in found.wrong if " s, more than" not in text], found.screen
