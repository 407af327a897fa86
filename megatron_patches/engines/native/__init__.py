"""Rollouts on the actor's own Megatron modules: no second copy of the weights, and nothing to sync."""

from megatron_patches.engines.native.engine import NativeEngine

__all__ = ["NativeEngine"]
