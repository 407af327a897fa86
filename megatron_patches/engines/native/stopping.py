"""Stop strings: the ends of few responses are decoded. Stop tokens and the length need one vectorised comparison."""

from collections.abc import Sequence
from typing import Any

import torch

from pipeline.common.errors import UsageError


class StopStrings:
    """Finds the rows whose newest token completes a stop string.

    Only a token whose text contains the last character of a stop string can do that. A table over the vocabulary finds
    those rows, and only their last tokens are decoded.
    """

    def __init__(self, stop: Sequence[str], tokenizer: Any, vocab_size: int, device: torch.device):
        if tokenizer is None:
            raise UsageError(
                f"rollout.stop={list(stop)}: stop strings need a tokenizer, and the engine has none; give it one, or "
                "use stop tokens"
            )
        if not all(stop):
            raise UsageError("rollout.stop contains an empty string, which would end every response at once; remove it")
        self.stop, self.tokenizer = tuple(stop), tokenizer
        last = {text[-1] for text in stop}
        # A single byte of a longer character decodes to the replacement character, and may complete anything.
        ends = [bool(last.intersection(text) or "\ufffd" in text) for text in self._pieces(vocab_size)]
        self.may_end = torch.tensor(ends, device=device)
        # A token has at least one byte. Four more tokens keep special cases at the start of a text out of the window.
        self.window = max(len(text.encode()) for text in stop) + 4

    def _pieces(self, vocab_size: int) -> list[str]:
        """Decodes every token, special tokens included; ids that the tokenizer lacks give empty strings."""
        known = min(len(self.tokenizer), vocab_size)
        pieces = [self.tokenizer.decode([i], skip_special_tokens=False) for i in range(known)]
        return pieces + [""] * (vocab_size - known)

    def candidates(self, tokens: torch.Tensor) -> list[int]:
        """Returns the rows whose newest token, int64 [R], may complete a stop string."""
        return self.may_end[tokens].nonzero()[:, 0].tolist()

    def ends(self, tail: list[int]) -> bool:
        """Whether the text of a response's last `window` tokens contains a stop string."""
        text = self.tokenizer.decode(tail, skip_special_tokens=False)
        return any(stop in text for stop in self.stop)
