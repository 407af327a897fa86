"""The order of the training prompts: seeded epochs, the same on every rank and after every restart."""

from dataclasses import replace
from typing import Any

import torch

from pipeline.common.errors import InputError
from pipeline.rollout.interface import Prompt


class PromptSampler:
    """Returns `prompts` in a new seeded order every epoch; a batch may continue into the next epoch.

    A prompt that comes again is marked with its `occurrence`, so that one batch may hold it twice.

    Its state is one number, the prompts used so far, so a resumed run continues exactly.
    """

    def __init__(self, prompts: list[Prompt], prompts_per_step: int, seed: int):
        if not prompts:
            raise InputError("there are no training prompts; run stage=preprocess on other data")
        self.prompts = prompts
        self.prompts_per_step = prompts_per_step
        self.seed = seed
        self.taken = 0
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.int64)

    def next(self) -> list[Prompt]:
        """Returns the next `prompts_per_step` prompts."""
        batch = [self._at(self.taken + i) for i in range(self.prompts_per_step)]
        self.taken += self.prompts_per_step
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"taken": self.taken, "prompts": len(self.prompts)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the place. Raises InputError if the number of prompts has changed, which would change the order."""
        if state["prompts"] != len(self.prompts):
            raise InputError(
                f"the checkpoint was made with {state['prompts']} training prompts, now there are {len(self.prompts)}; "
                "restore the output of stage=preprocess, or start a run with another name="
            )
        self.taken = state["taken"]

    def _at(self, position: int) -> Prompt:
        epoch, place = divmod(position, len(self.prompts))
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.prompts), generator=generator)
        return replace(self.prompts[int(self._order[place])], occurrence=epoch)
