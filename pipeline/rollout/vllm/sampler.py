"""Both log-probs of every sampled token: under the distribution it was drawn from, and under the raw policy.

vLLM returns one of the two (`logprobs_mode`). Here an engine in mode `processed_logprobs` that asks for one more
log-prob per token gets the raw one in that place. The path from sampler to caller needs no change, not even from other
nodes.
"""

from dataclasses import replace
from typing import Any

import torch


def install(sampler: Any) -> None:
    """Makes vLLM's `sampler` (v1/sample/sampler.py:20 of 0.32.0) also return raw log-probs.

    Its mode must be `processed_logprobs` (asserted).
    """
    if not torch.cuda.is_available():
        stay_eager()
    assert sampler.logprobs_mode == "processed_logprobs", sampler.logprobs_mode
    parent = type(sampler)

    class TwofoldSampler(parent):  # type: ignore[misc, valid-type]
        """Returns, per token, its log-prob as sampled in column 0, and its raw log-prob in column 1 if asked for."""

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


def stay_eager() -> None:
    """Computes the rank of a sampled token without torch.compile: compiling it takes 40 s on a CPU, and it is
    unused."""
    from vllm.v1.sample import sampler as module

    compiled = module.batched_count_greater_than
    module.batched_count_greater_than = getattr(compiled, "_torchdynamo_orig_callable", compiled)
