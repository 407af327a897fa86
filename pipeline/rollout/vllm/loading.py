"""Weights into the parameters of a vLLM model that is in use, piece by piece."""

from collections.abc import Iterable, Iterator

import torch

from pipeline.rollout.vllm import blocks

Piece = tuple[str, int | None, torch.Tensor]
"""Name of a Hugging Face tensor, index of the first row, and these rows. The index None means the whole tensor."""


@torch.no_grad()
def load(model: torch.nn.Module, pieces: Iterable[Piece]) -> None:
    """Writes the pieces in place as they arrive; vLLM's loaders select this rank's part of whole tensors.

    Raises KeyError for rows of a tensor that vLLM does not store as rows (experts).
    """
    places = blocks.find(model)

    def whole() -> Iterator[tuple[str, torch.Tensor]]:
        for name, first, rows in pieces:
            if first is None:
                yield name, rows
            else:
                places[name].write(first, rows)

    model.load_weights(whole())  # type: ignore[operator]
