"""What a plan works out beyond the instant estimate."""

from pydantic import Field

from pipeline.settings.base import Section


class Plan(Section):
    """Of stage=plan."""

    rehearse: bool = False
    """Run one step of some ranks' real code on tensors without numbers, and print its memory, time and collectives."""
    ranks: list[int] = Field([], max_length=64)
    """Ranks to rehearse; empty: the first rank of each pipeline stage."""
