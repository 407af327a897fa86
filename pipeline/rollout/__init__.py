"""Rollouts: the engine interface, the random streams of requests, and the shards of the offline stage."""

from pipeline.rollout.interface import Prompt, Rollout, RolloutEngine, Sampling

__all__ = ["Prompt", "Rollout", "RolloutEngine", "Sampling"]
