"""The algorithm presets: each loads, sets only values that differ from the defaults, and is the algorithm it names."""

from pathlib import Path

import pytest
import yaml

from pipeline.objectives import losses
from pipeline.settings import Algo
from pipeline.settings.algo import LOSSES

FOLDER = Path(__file__).parents[2] / "configs" / "algo"


def preset(name: str) -> dict:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())["algo"]


VARIANTS = {
    "etr_micro": "etr", "etr_positive": "etr", "etr_shrink": "etr", "etr_stretch": "etr", "static": "etr",
    "grpo_matched_micro": "grpo_matched",
}  # fmt: skip
"""Presets that set keys of another preset's loss."""


def test_there_is_a_preset_for_every_loss():
    assert {path.stem for path in FOLDER.glob("*.yaml")} - set(VARIANTS) == set(LOSSES) == set(losses.names())


@pytest.mark.parametrize("name", [*LOSSES, *VARIANTS])
def test_a_preset_is_valid_and_sets_only_what_differs_from_the_defaults(name):
    stated = preset(name)
    config = Algo(**stated)
    assert config.loss == VARIANTS.get(name, name)
    default = Algo()
    for key, value in stated.items():
        assert key == "loss" or value != getattr(default, key), key
    assert losses.of(config).elastic or (config.alpha, config.beta) == (0, 0)  # the printed values are in effect


def test_the_control_is_matched_to_the_default_etr():
    etr, control = Algo(**preset("etr")), Algo(**preset("grpo_matched"))
    assert control.model_copy(update={"loss": "etr"}) == etr
    micro, its_control = Algo(**preset("etr_micro")), Algo(**preset("grpo_matched_micro"))
    assert its_control.model_copy(update={"loss": "etr"}) == micro != etr


def test_grpo_is_the_published_one():
    config = Algo(**preset("grpo"))
    assert (config.eps_low, config.eps_high, config.aggregate) == (0.2, 0.2, "seq-mean-token-mean")
