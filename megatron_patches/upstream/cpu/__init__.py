"""Support for machines without CUDA: an import hook that rewrites megatron-core's source, installed before its
import."""

from megatron_patches.upstream.cpu.hook import install

__all__ = ["install"]
