"""A dispatcher of tokens to experts that keeps nothing after its forward pass (patch `dispatcher-state`)."""

from typing import Any

import torch
from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher

STATE = ("probs", "routing_map", "reversed_local_input_permutation_mapping")
"""What upstream keeps from the forward pass to its end, with autograd's graph of the layer behind it."""


def forget_after_forward(module: torch.nn.Module) -> None:
    """Makes every dispatcher in `module` let go of `STATE` when the experts' outputs are back in place.

    Otherwise each layer's graph lives until the layer's next forward pass, beyond the backward pass and the optimizer step:
    with full recomputation 68 MiB a layer for micro-batches of 8,192 tokens of 2,048 bf16 numbers.
    """
    for layer in module.modules():
        dispatcher = getattr(layer, "token_dispatcher", None)
        if isinstance(dispatcher, MoETokenDispatcher):
            _forget(dispatcher)


def _forget(dispatcher: Any) -> None:
    finish = dispatcher.combine_postprocess

    def combine_postprocess(outputs: torch.Tensor) -> torch.Tensor:
        restored = finish(outputs)
        for name in STATE:
            setattr(dispatcher, name, None)
        return restored

    dispatcher.combine_postprocess = combine_postprocess
