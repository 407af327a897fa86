"""Packs several warm-up rows into one sequence, without attention between them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from pipeline.data.templates import encode_prompt
from pipeline.settings import Data

IGNORED = -100
"""Label of positions that are not learned: prompts and padding."""


@dataclass(frozen=True)
class Example:
    """One tokenized warm-up row."""

    tokens: list[int]
    """Prompt, response, end of text."""
    prompt_length: int


@dataclass(frozen=True)
class PackedRows:
    """`[rows, length]`, int64."""

    tokens: torch.Tensor
    labels: torch.Tensor
    """The token itself where it is learned, IGNORED elsewhere; the shift by one is the model's."""
    positions: torch.Tensor
    """Restart at 0 in each example."""
    segments: torch.Tensor
    """Number of the example within its row, from 1; 0 is padding."""

    def __len__(self) -> int:
        return len(self.tokens)

    def pick(self, rows: torch.Tensor) -> "PackedRows":
        return PackedRows(self.tokens[rows], self.labels[rows], self.positions[rows], self.segments[rows])

    def attention_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """[rows, 1, length, length], 0 where a position may look (backwards, within its example), else the least number.

        A padding position may look at itself, so that no softmax is over nothing.
        """
        same = self.segments[:, :, None] == self.segments[:, None, :]
        length = self.tokens.shape[1]
        allowed = same & torch.ones(length, length, dtype=torch.bool, device=self.tokens.device).tril()
        mask = torch.zeros(allowed.shape, dtype=dtype, device=self.tokens.device)
        return mask.masked_fill(~allowed, torch.finfo(dtype).min)[:, None]


def tokenize(rows: Sequence[dict[str, Any]], data: Data, tokenizer: Any, length: int) -> tuple[list[Example], int]:
    """Examples of at most `length` tokens, and how many rows were left out for being longer."""
    examples, dropped = [], 0
    for row in rows:
        prompt = encode_prompt(row["problem"], data, tokenizer)
        response = tokenizer.encode(row["response"], add_special_tokens=False, split_special_tokens=True)
        tokens = [*prompt, *response, tokenizer.eos_token_id]
        if len(tokens) > length:
            dropped += 1
        else:
            examples.append(Example(tokens, len(prompt)))
    return examples, dropped


def pack(examples: Sequence[Example], length: int, pad: int) -> PackedRows:
    """First fit in the given order over the last few open rows, which wastes a few per cent and keeps the order's mixture."""
    rows: list[list[Example]] = []
    room: dict[int, int] = {}
    for example in examples:
        size = len(example.tokens)
        place = next((row for row, left in room.items() if left >= size), None)
        if place is None:
            place = len(rows)
            rows.append([])
            room[place] = length
        rows[place].append(example)
        room[place] -= size
        while len(room) > 16:
            del room[next(iter(room))]
    tokens = torch.full((len(rows), length), pad)
    labels = torch.full_like(tokens, IGNORED)
    positions, segments = torch.zeros_like(tokens), torch.zeros_like(tokens)
    for r, row in enumerate(rows):
        start = 0
        for number, example in enumerate(row, 1):
            end = start + len(example.tokens)
            tokens[r, start:end] = torch.tensor(example.tokens)
            positions[r, start:end] = torch.arange(end - start)
            segments[r, start:end] = number
            labels[r, start + example.prompt_length : end] = tokens[r, start + example.prompt_length : end]
            start = end
    return PackedRows(tokens, labels, positions, segments)
