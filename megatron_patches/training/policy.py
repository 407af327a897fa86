"""A Megatron-core policy that scores responses: log-probs of a step's samples, at any layout."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.transformer.module import Float16Module

from megatron_patches import parallel
from megatron_patches.model import routing
from megatron_patches.model.policy_model import Head, build_chunks
from megatron_patches.model.routing import Routing
from megatron_patches.policy_head import token_logprobs
from megatron_patches.training import batches
from megatron_patches.training.batches import MicroBatch
from pipeline.rl.experience import Samples
from pipeline.settings import Layout, Model, Rl
from pipeline.settings.levers import fp8_multiple


class Policy:
    """A model that scores responses: the actor's base, and the frozen reference.

    Every rank of the world calls every method, with the same samples. `temperature` is the one that responses are sampled
    at: the policy is the distribution that is sampled from, so its log-probs carry it.
    """

    def __init__(self, model: Model, layout: Layout, rl: Rl, temperature: float):
        self.model, self.layout, self.rl = model, layout, rl
        self.temperature = temperature or 1.0  # greedy (0) samples from no distribution: 1 is compared
        self.packed = rl.rows == "packed"
        self.device = parallel.device()
        self.chunks: list[Any] = build_chunks(model, layout, rl)
        self.config = self.chunks[0].config
        replays = rl.routing_replay != "none" and model.experts.count > 0
        self.routing = Routing(self.chunks, layout.sp) if replays else None
        if self.config.bf16:
            self.chunks = [Float16Module(self.config, chunk) for chunk in self.chunks]

    def logprobs(self, samples: Samples, temperature: float | None = None) -> torch.Tensor:
        """Log-prob of every response token, fp32 `[T]` on the CPU, on every rank; at the sampling temperature, unless
        another is given."""
        options = {} if temperature is None else {"temperature": temperature}
        return self._score(samples, None, need_entropy=False, **options)[0]

    def logprobs_and_entropy(self, samples: Samples) -> tuple[torch.Tensor, torch.Tensor]:
        """As `logprobs`, and the policy's entropy at every response token, fp32 `[T]`."""
        logp, entropy = self._score(samples, need_entropy=True)
        return logp, entropy

    def record(self, samples: Samples) -> tuple[torch.Tensor, torch.Tensor, Samples]:
        """As `logprobs_and_entropy`, and the samples with the experts that were visited (`rl.routing_replay=actor`), those of
        this rank's layers."""
        assert self.routing is not None
        positions = int(samples.position_offsets[-1])
        choices = torch.zeros((positions, self.routing.layers, self.routing.top_k), dtype=torch.uint8)
        with self.routing.recording():
            logp, entropy = self._score(samples, choices, need_entropy=True)
        choices = routing.exchange(choices, self.layout.sp, self.device)
        return logp, entropy, replace(samples, experts=choices)

    def _score(self, samples: Samples, choices: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
        """fp32 [2, T]: log-probs and entropies (NaN if `need_entropy` is False). `choices` is filled as `_run` says."""
        results: list[tuple[torch.Tensor, torch.Tensor]] = []

        def step(micro: MicroBatch) -> tuple[Head, Callable]:
            def head(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
                both = token_logprobs(flat(hidden), weight, micro.targets, **(self.head_options(micro) | options))
                return torch.stack(both)[:, micro.index]

            def collect(scores: torch.Tensor):
                results.append((micro.source, scores.float().cpu()))
                return scores.sum(), torch.tensor(1, dtype=torch.int), {}

            return head, collect

        for chunk in self.chunks:
            chunk.eval()
        with torch.no_grad():
            self._run(samples, list(range(len(samples))), step, forward_only=True, choices=choices)
        whole = torch.zeros(2, int(samples.offsets[-1]))
        if parallel_state.get_tensor_model_parallel_rank() == 0:
            for source, scores in results:
                whole[:, source] = scores
        # Each token was scored by one data- and context-parallel rank of the last stage; the rest of the world holds 0.
        whole = whole.to(self.device)
        dist.all_reduce(whole)
        return whole.cpu()

    def park(self) -> None:
        """Call when the engine holds the weights: the actor gives back memory as `rl.offload` says."""

    def fetch(self, weights_only: bool = False) -> None:
        """Call before the weights, or anything else, are used again."""

    def head_options(self, micro: MicroBatch) -> dict[str, Any]:
        """The policy head's options that do not depend on its mode."""
        return {
            "tp_group": parallel_state.get_tensor_model_parallel_group(),
            "vocab_size": self.model.vocab_size,
            "index": micro.index,
            "temperature": self.temperature,
            "sequence_parallel": self.layout.sp,
            "chunk_tokens": self.rl.head_chunk_tokens,
        }

    def _run(
        self,
        samples: Samples,
        chosen: list[int],
        step: Callable[[MicroBatch], tuple[Head, Callable]],
        forward_only: bool,
        choices: torch.Tensor | None = None,
    ) -> None:
        """All micro-batches of `chosen` through Megatron's schedule; `step` gives each its head and loss function. Experts are
        those of the samples, if they have any. `choices` [positions, layers, k] gets what this rank's routers choose."""
        planned = batches.plan(samples, chosen, self.layout, parallel.data_parallel_size(), self.packed)
        mine = planned[parallel.data_parallel_rank()]
        cp_rank = parallel_state.get_context_parallel_rank()
        pad_to, all_bounds = fp8_multiple(self.rl), self.rl.fused_rope
        micros = [
            batches.build(samples, rows, self.layout, cp_rank, self.packed, pad_to).to(self.device, all_bounds)
            for rows in mine
        ]

        def forward_step(iterator: Iterator[MicroBatch], model) -> tuple[Any, Callable]:
            micro = next(iterator)
            head, loss = step(micro)
            if self.routing is None:
                return forward(model, micro, head), loss
            chunk = next(i for i, one in enumerate(self.chunks) if one is model)
            given = None if samples.experts is None else routing.at(samples.experts, micro.places).to(self.device)
            self.routing.give(chunk, given, trains=not forward_only)
            out = forward(model, micro, head)
            if choices is not None:
                places = self.routing.mine(micro.places)
                kept = places >= 0
                choices[places[kept], self.routing.layers_of(chunk)] = self.routing.chosen(chunk).cpu()[kept]
            return out, loss

        def forward(model, micro: MicroBatch, head: Head):
            return model(micro.tokens, micro.position_ids, None, packed_seq_params=micro.packed, head=head)

        iterators = [iter(micros) for _ in self.chunks]
        get_forward_backward_func()(
            forward_step_func=forward_step,
            data_iterator=iterators if len(iterators) > 1 else iterators[0],
            model=self.chunks if len(self.chunks) > 1 else self.chunks[0],
            num_microbatches=len(micros),
            seq_length=self.model.max_position_embeddings,  # shapes are exchanged where they matter (PP)
            micro_batch_size=1,
            forward_only=forward_only,
        )
        if self.routing is not None:
            self.routing.forget()


def flat(hidden: torch.Tensor) -> torch.Tensor:
    """[s, b, h] -> [s * b, h]."""
    return hidden.reshape(-1, hidden.shape[-1])
