"""From sequences to micro-batches: which rank takes which, in what rows, and where each response token's hidden state lies.

A position's hidden state predicts the next token, so a sequence of P prompt and R response tokens enters the model
without its last token, and its response log-probs come from positions P-1 .. P+R-2. Tensors are in Megatron's order:
hidden states are [s, b, h], so row j's position p is entry `p * b + j` of the flattened `[T]`, T = s * b.
"""

from dataclasses import dataclass

import torch

from megatron_patches.model.attention import PackedRows
from pipeline.rl.experience import Samples
from pipeline.settings import Layout


@dataclass
class MicroBatch:
    """One forward of one data- and context-parallel rank."""

    tokens: torch.Tensor
    """[b, s] input ids of this context-parallel rank; packed rows have b = 1."""
    position_ids: torch.Tensor
    """[b, s] natural positions within each sequence."""
    packed: PackedRows | None
    targets: torch.Tensor
    """[T] next token, 0 where no log-prob is wanted."""
    index: torch.Tensor
    """[K] the positions in `[T]` that hold this rank's response tokens, ascending."""
    source: torch.Tensor
    """[K] which entry of the samples' flat response tokens each of them is."""
    row: torch.Tensor
    """[K] which of `rows` each of them belongs to."""
    rows: torch.Tensor
    """[n] the micro-batch's sequences in the samples; the same on all context-parallel ranks."""
    places: torch.Tensor
    """[T] which of the samples' positions each is; -1: padding."""

    @property
    def total(self) -> int:
        """T."""
        return self.targets.numel()

    def to(self, device: torch.device, all_bounds: bool = False) -> "MicroBatch":
        """With what the model reads on `device`; `source`, `row`, `rows` and `places` stay on the host, where they are used.
        `all_bounds`: as in `PackedRows.to`."""
        moved = {name: getattr(self, name).to(device) for name in ("tokens", "position_ids", "targets", "index")}
        packed = None if self.packed is None else self.packed.to(device, all_bounds)
        stay = {name: getattr(self, name) for name in ("source", "row", "rows", "places")}
        return MicroBatch(**moved, packed=packed, **stay)


def assign(lengths: list[int], ranks: int) -> list[list[int]]:
    """Indices for each data-parallel rank, balanced by tokens: longest first, each to the rank that has the fewest so far."""
    shares: list[list[int]] = [[] for _ in range(ranks)]
    tokens = [0] * ranks
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        least = tokens.index(min(tokens))
        shares[least].append(i)
        tokens[least] += lengths[i]
    return shares


def cut(share: list[int], lengths: list[int], budget: int, packed: bool) -> list[list[int]]:
    """One rank's sequences (longest first) -> micro-batches of at most `budget` tokens, padding included.

    A sequence longer than the budget gets a micro-batch for itself.
    """
    cuts: list[list[int]] = []
    used = longest = 0
    for i in share:
        size = lengths[i]
        need = used + size if packed else max(longest, size) * (len(cuts[-1]) + 1 if cuts else 1)
        if cuts and need <= budget:
            cuts[-1].append(i)
            used, longest = used + size, max(longest, size)
        else:
            cuts.append([i])
            used = longest = size
    return cuts


def plan(samples: Samples, chosen: list[int], layout: Layout, dp_size: int, packed: bool) -> list[list[list[int]]]:
    """Micro-batches for each data-parallel rank, `[dp][micro-batch][sequence]`; the same number for every rank.

    Missing ones are empty lists, which still make a forward (of one masked token), so that no rank waits for another.
    """
    lengths = {i: len(samples.prompts[i]) + len(samples.responses[i]) for i in chosen}
    sizes = [lengths[i] for i in chosen]
    cuts = [
        cut([chosen[k] for k in share], lengths, layout.micro_batch_tokens, packed)  # type: ignore[arg-type]
        for share in assign(sizes, dp_size)
    ]
    count = max(map(len, cuts), default=1) or 1
    if layout.vpp:  # the interleaved schedule wants a multiple of the pipeline size
        count = -(-count // layout.pp) * layout.pp
    return [rows + [[]] * (count - len(rows)) for rows in cuts]


def build(samples: Samples, rows: list[int], layout: Layout, cp_rank: int, packed: bool, pad_to: int = 1) -> MicroBatch:
    """The tensors of one micro-batch for context-parallel rank `cp_rank`. Its part of each sequence is padded to a multiple of
    `pad_to`."""
    sequences = [_sequence(samples, i, row) for row, i in enumerate(rows)] or [_Sequence.empty()]
    multiple = pad_to * (2 * layout.cp if layout.cp > 1 else 1)
    if layout.sp:
        multiple *= layout.tp
    arrange = _packed if packed else _padded
    return arrange(sequences, torch.tensor(rows, dtype=torch.int64), multiple, layout.cp, cp_rank)


@dataclass
class _Sequence:
    """One sequence, position by position: int64 [L]; `source` is -1 where no response token is predicted, `places` where it
    is padding."""

    tokens: torch.Tensor
    targets: torch.Tensor
    source: torch.Tensor
    places: torch.Tensor
    row: int

    @classmethod
    def empty(cls) -> "_Sequence":
        nothing = torch.tensor([-1])
        return cls(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), nothing, nothing, 0)

    def padded(self, length: int) -> "_Sequence":
        def extend(x: torch.Tensor, fill: int) -> torch.Tensor:
            return torch.nn.functional.pad(x, (0, length - len(x)), value=fill)

        fills = {"tokens": 0, "targets": 0, "source": -1, "places": -1}
        return _Sequence(**{name: extend(getattr(self, name), fill) for name, fill in fills.items()}, row=self.row)


def _sequence(samples: Samples, i: int, row: int) -> _Sequence:
    prompt, response = samples.prompts[i], samples.responses[i]
    tokens = torch.tensor(prompt + response, dtype=torch.int64)
    places = torch.arange(int(samples.position_offsets[i]), int(samples.position_offsets[i + 1]))
    if not response:  # nothing is predicted; the prompt alone still makes a row
        return _Sequence(tokens, torch.zeros_like(tokens), torch.full_like(tokens, -1), places, row)
    first = len(prompt) - 1
    source = torch.full((len(tokens) - 1,), -1, dtype=torch.int64)
    source[first:] = torch.arange(int(samples.offsets[i]), int(samples.offsets[i + 1]))
    targets = torch.where(source >= 0, tokens[1:], 0)
    return _Sequence(tokens[:-1], targets, source, places, row)


def _up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _local(length: int, cp: int, cp_rank: int) -> torch.Tensor:
    """Natural positions of this context-parallel rank's tokens, zig-zag, int64 [length / cp]."""
    pieces = torch.arange(length).chunk(2 * cp) if cp > 1 else [torch.arange(length)]
    return torch.cat([pieces[cp_rank], pieces[2 * cp - 1 - cp_rank]]) if cp > 1 else pieces[0]


def _padded(sequences: list[_Sequence], rows: torch.Tensor, multiple: int, cp: int, cp_rank: int) -> MicroBatch:
    length = _up(max(len(s.tokens) for s in sequences), multiple)
    here = _local(length, cp, cp_rank)
    padded = [s.padded(length) for s in sequences]
    tokens, targets, source, places = (torch.stack([getattr(s, name)[here] for s in padded]) for name in _COLUMNS)
    row = torch.tensor([s.row for s in padded])[:, None].expand_as(tokens)
    targets, source, row, places = (x.t().reshape(-1) for x in (targets, source, row, places))  # [b, s] -> [s * b]
    return _finish(tokens, here[None].expand_as(tokens).contiguous(), None, targets, source, row, rows, places)


def _packed(sequences: list[_Sequence], rows: torch.Tensor, multiple: int, cp: int, cp_rank: int) -> MicroBatch:
    parts = [s.padded(_up(len(s.tokens), multiple)) for s in sequences]
    here = [_local(len(s.tokens), cp, cp_rank) for s in parts]
    tokens, targets, source, places = (
        torch.cat([getattr(s, name)[at] for s, at in zip(parts, here, strict=True)]) for name in _COLUMNS
    )
    row = torch.cat([torch.full((len(at),), s.row) for s, at in zip(parts, here, strict=True)])
    packed = PackedRows.of([len(s.tokens) for s in parts])
    return _finish(tokens[None], torch.cat(here)[None], packed, targets, source, row, rows, places)


_COLUMNS = ("tokens", "targets", "source", "places")


def _finish(tokens, position_ids, packed, targets, source, row, rows, places) -> MicroBatch:
    index = (source >= 0).nonzero()[:, 0]
    return MicroBatch(tokens, position_ids, packed, targets, index, source[index], row[index], rows, places)
