"""Running megatron-core on machines without CUDA: a source-level hook, installed before `megatron.core` is imported."""

from megatron_patches.upstream.cpu.hook import install

__all__ = ["install"]
