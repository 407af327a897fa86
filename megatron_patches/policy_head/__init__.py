"""The policy head: per-token log-prob and entropy from hidden states and the vocabulary-parallel output weight, without
holding the logits of a micro-batch. See docs/policy-head.md.

Nothing here imports megatron-core. The inputs are hidden states, a weight shard and a process group.
"""

from megatron_patches.policy_head.fused import Objective, fused_policy_head
from megatron_patches.policy_head.recompute import token_logprobs

__all__ = ["Objective", "fused_policy_head", "token_logprobs"]
