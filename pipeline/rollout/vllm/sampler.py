"""Both log-probs of every sampled token: under the distribution it was drawn from, and under the raw policy.

vLLM gives one of the two (`logprobs_mode`). An engine that asks for `processed_logprobs` with one further log-prob for
each token gets the raw one in that place: vLLM's way out of the engine stays as it is, also from other nodes.
"""

from dataclasses import replace
from typing import Any

import torch


def install(sampler: Any) -> None:
    """Make vLLM's `sampler` (v1/sample/sampler.py:20 of 0.32.0) also return raw log-probs. Its mode has to be
    `processed_logprobs`."""
    if not torch.cuda.is_available():
        _stay_eager()
    assert sampler.logprobs_mode == "processed_logprobs", sampler.logprobs_mode
    parent = type(sampler)

    class TwofoldSampler(parent):  # type: ignore[misc, valid-type]
        """Column 0: the sampled token's log-prob as sampled; column 1, where it was asked for: its raw log-prob."""

        def forward(self, logits: torch.Tensor, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
            wanted = sampling_metadata.max_num_logprobs == 1
            raw = self.compute_logprobs(logits) if wanted else None  # before the logits are changed in place
            output = super().forward(logits, sampling_metadata, *args, **kwargs)
            if raw is not None:
                tensors = output.logprobs_tensors
                tokens = output.sampled_token_ids.long()
                ids, logprobs = tensors.logprob_token_ids.clone(), tensors.logprobs.clone()
                ids[:, 1:2] = tokens
                logprobs[:, 1:2] = raw.gather(-1, tokens)
                changes = {"logprob_token_ids": ids, "logprobs": logprobs}
                output.logprobs_tensors = (
                    tensors._replace(**changes) if hasattr(tensors, "_replace") else replace(tensors, **changes)
                )
            return output

    sampler.__class__ = TwofoldSampler


def _stay_eager() -> None:
    """Leave the rank of a sampled token to plain torch: compiling that one line takes a CPU 40 s, and nobody reads ranks."""
    from vllm.v1.sample import sampler as module

    compiled = module.batched_count_greater_than
    module.batched_count_greater_than = getattr(compiled, "_torchdynamo_orig_callable", compiled)
