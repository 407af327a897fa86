"""Responses that were sampled a second time, beside the first."""

from dataclasses import dataclass

from pipeline.rollout.interface import Groups, Rollout


@dataclass(frozen=True)
class Resampled:
    """How far a step's responses are the same."""

    responses: int
    same: int
    """With the same tokens."""
    largest_gap: float
    """Largest difference of a log-prob of the same token, up to the first token that differs."""
    first: str | None
    """Where the first response that differs does so."""

    @property
    def text(self) -> str:
        start = f"{self.same} of {self.responses} responses were sampled again with the same tokens, "
        gap = (
            "log-probs equal to the bit" if self.largest_gap == 0 else f"log-probs at most {self.largest_gap:.3g} apart"
        )
        return f"{start}{gap}" + (f"; the first that differs: {self.first}" if self.first else "")


def compare(then: Groups, now: Groups) -> Resampled:
    """Compares groups of the same prompts and samples, in the same order."""
    pairs = [pair for one, other in zip(then, now, strict=True) for pair in zip(one, other, strict=True)]
    lengths = [_agreeing(*pair) for pair in pairs]
    differ = [
        f"{one.prompt.id}, sample {one.sample}, token {length + 1}"
        for (one, other), length in zip(pairs, lengths, strict=True)
        if one.token_ids != other.token_ids
    ]
    gaps = [
        abs(a - b)
        for (one, other), length in zip(pairs, lengths, strict=True)
        for a, b in zip(one.logps[:length], other.logps[:length], strict=True)
    ]
    return Resampled(len(pairs), len(pairs) - len(differ), max(gaps, default=0.0), next(iter(differ), None))


def _agreeing(one: Rollout, other: Rollout) -> int:
    """Tokens before the first that differs."""
    pairs = zip(one.token_ids, other.token_ids, strict=False)
    same = next((place for place, (a, b) in enumerate(pairs) if a != b), None)
    return min(len(one.token_ids), len(other.token_ids)) if same is None else same
