"""When a response ends: stop tokens and the length in one vectorised comparison, stop strings by decoding few tails."""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.common.errors import UsageError


class StopStrings:
    """Finds the rows whose newest token completes a stop string.

    Only a token whose own text holds the last character of a stop string can do so; a table over the vocabulary picks
    those rows, and of them alone the last tokens are decoded.
    """

    def __init__(self, stop: Sequence[str], tokenizer: Any, vocab_size: int, device: torch.device):
        if tokenizer is None:
            raise UsageError(f"rollout.stop={list(stop)}: stop strings need the engine's tokenizer; none was given")
        if not all(stop):
            raise UsageError("rollout.stop holds an empty string, which would end every response at once; remove it")
        self.stop, self.tokenizer = tuple(stop), tokenizer
        last = {text[-1] for text in stop}
        # A lone byte of a longer character decodes to the replacement character: it may complete anything.
        ends = [bool(last.intersection(text) or "\ufffd" in text) for text in self._pieces(vocab_size)]
        self.may_end = torch.tensor(ends, device=device)
        # A token holds a byte at least; four more so that the decoder's habits at the start of a text are out of reach.
        self.window = max(len(text.encode()) for text in stop) + 4

    def _pieces(self, vocab_size: int) -> list[str]:
        """The text of every token, special tokens as they are written; empty for ids that the tokenizer lacks."""
        known = min(len(self.tokenizer), vocab_size)
        pieces = [self.tokenizer.decode([i], skip_special_tokens=False) for i in range(known)]
        return pieces + [""] * (vocab_size - known)

    def candidates(self, tokens: torch.Tensor) -> list[int]:
        """Rows of int64 [R] newest tokens that are worth decoding."""
        return self.may_end[tokens].nonzero()[:, 0].tolist()

    def ends(self, tail: list[int]) -> bool:
        """Whether the text of a response's last `window` tokens holds a stop string."""
        text = self.tokenizer.decode(tail, skip_special_tokens=False)
        return any(stop in text for stop in self.stop)
