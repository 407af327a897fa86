"""What a plan works out beyond the instant estimate."""

from pydantic import Field, model_validator

from pipeline.settings.base import Section


class Plan(Section):
    """Of stage=plan."""

    rehearse: bool = False
    """Run one step of some ranks' real code on tensors without numbers, and print its memory, time and collectives."""
    search: bool = False
    """Try layouts and levers of memory: rank those that fit by the seconds of a step, and say why the others do not."""
    ranks: list[int] = Field([], max_length=64)
    """Ranks to rehearse; empty: the first rank of each pipeline stage."""
    lengths: str | None = None
    """Simulate who waits for whom, on the response lengths of a run (its name), a samples.jsonl, or a file with one a line."""
    engines: int = Field(1, ge=1)
    """Simulation: engines that sample, each decoding up to `rollout.max_concurrent` sequences."""
    decode_ms: list[float] = Field([], max_length=3)
    """Simulation: a,b or a,b,c where a decode step of n sequences takes a + b n milliseconds and the start of a sequence c;
    empty: from the run or the rehearsal."""
    actor_s: float | None = Field(None, gt=0)
    """Simulation: seconds from a batch to new weights; none: from the run or the rehearsal."""

    @model_validator(mode="after")
    def _check(self) -> "Plan":
        given = self.decode_ms
        if given and (len(given) < 2 or min(given) < 0 or not any(given[:2])):
            raise ValueError(
                "plan.decode_ms takes two or three numbers, a,b or a,b,c: none negative, a and b not both 0"
            )
        return self
