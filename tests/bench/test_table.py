"""The table of benchmarks is what runs, what is listed, and what chooses the launcher."""

import importlib.util
from pathlib import Path

import pytest

from pipeline.common.benches import BENCHES, module_of
from pipeline.run.catalog import STAGES, Job
from pipeline.run.door import usage
from pipeline.settings import Bench, Settings
from stages import bench


def test_every_entry_has_its_module_and_every_module_that_measures_has_an_entry():
    folder = Path(bench.__file__).parent
    measuring = {path.stem for path in folder.glob("*.py") if "\ndef bench(settings" in path.read_text()}
    assert measuring == set(BENCHES)
    for name in BENCHES:
        assert importlib.util.find_spec(module_of(name)), name


def test_the_usage_lists_every_benchmark():
    lines = usage().splitlines()
    for name, entry in BENCHES.items():
        assert any(line.split() == [f"what={name}", *entry.text.split()] for line in lines)


@pytest.mark.parametrize("name", BENCHES)
def test_benchmarks_that_need_ranks_are_started_by_torchrun(name):
    job = Job(STAGES["bench"], Settings.model_construct(bench=Bench(what=name)))
    assert job.launcher == ("torchrun" if BENCHES[name].needs_ranks else "plain")
