"""Comparing algorithms over paired seeds."""

from pydantic import Field

from pipeline.settings.base import Section


class Compare(Section):
    """stage=compare: which arms, at which seeds."""

    algos: list[str] = ["etr", "grpo_matched", "dapo", "grpo"]
    """Arms: algorithm presets, or names from `compare.arms`. The first is the subject, compared with each other arm."""
    arms: dict[str, str] = {}
    """Arms by name, as what would be typed: `compare.arms.micro="algo=etr algo.beta=0"`."""
    seeds: int = Field(5, ge=1)
    """Seeds of each arm; all arms share each seed's prompts and sampling streams."""
    first_seed: int = Field(0, ge=0)
    """The seeds are this and the following ones."""
    parallel: int | None = Field(None, ge=1)
    """Runs at a time; none: as many as the cores hold on a CPU machine, one on a GPU machine."""
    effect: float = Field(0.02, gt=0, lt=1)
    """Difference of final accuracy that matters to you; the result says how many seeds would find it."""
