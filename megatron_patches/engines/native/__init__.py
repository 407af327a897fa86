"""The native rollout engine: it samples with the actor's own Megatron modules, without a copy of the weights to
sync."""

from megatron_patches.engines.native.engine import NativeEngine

__all__ = ["NativeEngine"]
