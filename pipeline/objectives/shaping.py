"""What DAPO (arXiv 2503.14476) does outside its loss: which groups are worth training on, and soft length limits."""

import torch
from torch import Tensor

from pipeline.objectives.advantages import group_advantages


def mixed_groups(rewards: Tensor) -> Tensor:
    """bool [prompts]: the groups of `rewards` [prompts, group] that teach something; others have advantage 0 throughout."""
    return group_advantages(rewards)[1] > 0


def overlong_penalty(lengths: Tensor, limit: int, buffer: float, penalty: float = 1.0) -> Tensor:
    """What is added to the reward of responses of `lengths` tokens, fp32, the same shape.

        0                                                   length <= limit - buffer
        -penalty * (length - (limit - buffer)) / buffer     up to `limit`, and -penalty at it and beyond

    `buffer`: tokens; below 1, a share of `limit`; 0 turns it off.
    """
    buffer = buffer * limit if buffer < 1 else buffer
    if buffer <= 0:
        return torch.zeros_like(lengths, dtype=torch.float32)
    over = lengths.float() - (limit - buffer)
    return -penalty * (over / buffer).clamp(0, 1)
