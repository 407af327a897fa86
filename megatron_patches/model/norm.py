"""RMSNorm that may be sequence parallel (patch `rms-norm`)."""

import torch


class RMSNorm(torch.nn.Module):
    """Root-mean-square norm over the last dimension, statistics in fp32 for bf16 input.

    Upstream's WrappedTorchNorm (megatron-core 0.16.1, transformer/torch_norm.py:32) refuses sequence parallelism. All
    that it takes is the mark on the weight by which `finalize_model_grads` sums its partial gradients over TP.
    """

    def __init__(self, config, hidden_size: int, eps: float = 1e-5, **_unused):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype))
        self.eps = eps
        self.weight.sequence_parallel = config.sequence_parallel  # type: ignore[attr-defined]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., hidden_size] -> the same shape and dtype."""
        return torch.nn.functional.rms_norm(x, (x.shape[-1],), self.weight, self.eps)
