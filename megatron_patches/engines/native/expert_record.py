"""The experts that sampled each response, for `rl.routing_replay=engine`.

A step of the decoder feeds a token and samples the next one, so record number i of a response holds the experts of the position
that predicted its token i. The positions before the first of these, those of the prompt, come from its prefill.
"""

import numpy as np
import torch

from megatron_patches.model.routing import Routing


class ExpertRecord:
    """uint8 [lines, tokens, layers, k] of the responses under way, and of each prompt, expert + 1. `routing` is recording."""

    def __init__(self, routing: Routing, slots: int, device: torch.device):
        self.routing, self.slots, self.device = routing, slots, device
        self.form = (routing.layers, routing.top_k)
        self.steps = torch.empty(0)
        self.prompts: dict[int, np.ndarray] = {}
        """Of the prompts whose responses are under way, by the identity of their source: [tokens - 1, layers, k]."""

    def begin(self, most: int) -> None:
        """`most`: most new tokens of a response."""
        self.steps = torch.zeros((self.slots, most, *self.form), dtype=torch.uint8, device=self.device)

    def prefilled(self, sources: list, length: int) -> None:
        """After the prefill of `sources`, padded to `length` positions. The last layer's experts did not run: what they would
        add to a prompt's positions is not used, there or in training."""
        whole = torch.zeros((len(sources) * length, *self.form), dtype=torch.uint8, device=self.device)
        if self.form[0] > 1:
            whole[:, :-1] = self.routing.chosen(0, self.form[0] - 1)
        rows = whole.view(len(sources), length, *self.form).cpu().numpy()
        for row, source in zip(rows, sources, strict=True):
            self.prompts[id(source)] = row[: len(source.token_ids) - 1].copy()

    def stepped(self, cursor: torch.Tensor) -> None:
        """After a step that wrote its tokens at `cursor` [R] of the flattened lines."""
        self.steps.view(-1, *self.form).index_copy_(0, cursor, self.routing.chosen(0))

    def of(self, source, line: int, made: int) -> np.ndarray:
        """Of a response that has ended, with `made` tokens in its line: [positions, layers, k]."""
        return np.concatenate([self.prompts[id(source)], self.steps[line, :made].cpu().numpy()])
