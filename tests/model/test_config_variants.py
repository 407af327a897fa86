"""No third outcome: a model folder whose config.json differs from the preset is refused by the key's name, or the actor's
logits are transformers' to 1e-5. So it is for a preset that is derived from the folder.

Every key of config.json that changes the function is set to another value, in small models of each family with random
weights. Sequences are at most as long as the preset's context, as in training.
"""

import json
from pathlib import Path

import pytest
from config_variants import VARIANTS, Variant
from ranks import run_ranks

SCRIPT = Path(__file__).with_name("config_variants_rank.py")


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    folder = tmp_path_factory.mktemp("variants")
    run_ranks(1, SCRIPT, folder, timeout=300)
    return json.loads((folder / "results.json").read_text())


def test_the_variants_are_many_and_different():
    assert len({variant.id for variant in VARIANTS}) == len(VARIANTS) >= 60


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.id)
@pytest.mark.parametrize("against", ["preset", "derived"])
def test_refused_by_name_or_equal_to_transformers(results, variant: Variant, against: str):
    found = results[variant.id][against]
    if "refused" in found:
        assert variant.name in found["refused"], found["refused"]
        assert variant.name != "nothing"
    else:
        assert found["difference"] < 1e-5


def test_both_outcomes_occur(results):
    """Neither everything refused nor everything taken."""
    refused = [name for name, found in results.items() if "refused" in found["preset"]]
    taken = [name for name, found in results.items() if "difference" in found["derived"]]
    assert len(refused) > 40
    assert len(taken) > 30
