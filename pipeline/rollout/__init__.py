"""Rollouts: what engines take and give (`interface`), the requests' random streams, and the offline stage's shards."""

from pipeline.rollout.interface import Prompt, Rollout, RolloutEngine, Sampling

__all__ = ["Prompt", "Rollout", "RolloutEngine", "Sampling"]
