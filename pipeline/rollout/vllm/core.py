"""One rank of one vLLM engine, in this process: its requests, weights and memory.

The ranks of an engine run in lock step (executor `external_launcher`). Each makes the same scheduling decisions from
the same requests and reads the same logits, so each has all results.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipeline.common.errors import UsageError
from pipeline.rollout.gathering import Response
from pipeline.rollout.interface import Sampling
from pipeline.rollout.requests import Source
from pipeline.rollout.streams import request_key
from pipeline.rollout.vllm import environment, sampler
from pipeline.rollout.vllm.loading import Piece, load

POSITIVE = 2**63 - 1
"""Mask that makes a seed non-negative: to vLLM, -1 means no seed."""


@dataclass(frozen=True)
class Options:
    """The options that an engine is built with."""

    folder: str
    """Folder with the model's config and tokenizer; weights in it are ignored."""
    tp: int
    dtype: str
    """`float32` or `bfloat16`."""
    max_tokens: int
    """Most tokens of prompt and response together."""
    max_concurrent: int
    kv_bytes: int
    """Size of the KV cache on a CPU, in bytes."""
    gpu_memory_share: float
    has_tokenizer: bool = True


def stream_of(source: Source) -> str:
    """Name of the random streams of a source's responses. vLLM starts a request's stream at its first new token, so a response
    that continues has another one."""
    return f"{source.stream}\x1f{source.begun}" if source.begun else source.stream


class EngineCore:
    """A vLLM engine; its weights are random until `load`."""

    def __init__(self, options: Options):
        environment.prepare()
        from vllm import LLM

        self.options = options
        self.on_gpu = torch.cuda.is_available()
        special: dict[str, Any] = {"gpu_memory_utilization": options.gpu_memory_share, "enable_sleep_mode": True}
        if not self.on_gpu:
            # Explicit, because vLLM would otherwise measure free memory, and count the other ranks' use as its own.
            special = {"kv_cache_memory_bytes": options.kv_bytes, "enforce_eager": True}
        threads, set_threads = torch.get_num_threads(), torch.set_num_threads
        with torch.random.fork_rng(devices=[]):  # the engine must not change the trainer's random stream
            self.llm = LLM(
                model=str(Path(options.folder)),
                skip_tokenizer_init=not options.has_tokenizer,
                load_format="dummy",
                tensor_parallel_size=options.tp,
                distributed_executor_backend="external_launcher",
                dtype=options.dtype,  # type: ignore[arg-type]
                max_model_len=options.max_tokens,
                max_num_seqs=options.max_concurrent,
                # Prompts stay whole: one in chunks would draw from its random stream more than once.
                enable_chunked_prefill=False,
                max_num_batched_tokens=max(options.max_tokens, 8192),
                async_scheduling=False,  # otherwise ranks would get out of step
                logprobs_mode="processed_logprobs",
                disable_log_stats=True,
                generation_config="vllm",
                seed=0,
                **special,
            )
        torch.set_num_threads = set_threads  # the CPU worker replaces it by a function that only warns
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        self.engine = self.llm.llm_engine
        # At exit vLLM would destroy process groups that the trainer has already destroyed.
        self.engine.engine_core._finalizer.detach()  # type: ignore[attr-defined]
        sampler.install(self.runner.sampler)
        self._calls = 0
        self._asleep = False

    @property
    def runner(self) -> Any:
        """vLLM's model runner."""
        worker = self.engine.model_executor.driver_worker
        return getattr(worker, "worker", worker).model_runner

    @property
    def model(self) -> torch.nn.Module:
        return self.runner.model

    # Generation ------------------------------------------------------------------------------------------------------

    def generate(
        self,
        sources: list[Source],
        sampling: Sampling,
        policy_version: int,
        on_step: Callable[[int], None] | None = None,
    ) -> Iterator[Response]:
        """Samples the responses of each source, and yields each when it ends or has the source's most new tokens.

        `on_step` gets the number of tokens so far after every step. Raises UsageError for stop strings without a
        tokenizer.
        """
        from vllm.sampling_params import RequestOutputKind, SamplingParams

        if sampling.stop and not self.options.has_tokenizer:
            raise UsageError(
                f"rollout.stop={list(sampling.stop)}: stop strings need a tokenizer, and the engine has none; give it "
                "one, or use stop tokens"
            )
        self._calls += 1
        exact = sampling.temperature == 1 and sampling.top_p == 1 and sampling.top_k == 0
        twofold = not exact and sampling.temperature > 0
        where: dict[str, tuple[int, int]] = {}
        stops = set(sampling.stop_token_ids)
        for source in sources:
            stream = stream_of(source)
            for sample in source.samples:
                name = f"{self._calls}-{source.group}-{sample}"
                where[name] = (source.group, sample)
                params = SamplingParams(
                    temperature=sampling.temperature,
                    top_p=sampling.top_p,
                    top_k=sampling.top_k,
                    seed=request_key(sampling.seed, stream, sample, policy_version) & POSITIVE,
                    stop=list(sampling.stop) or None,
                    include_stop_str_in_output=True,
                    stop_token_ids=list(sampling.stop_token_ids) or None,
                    ignore_eos=True,  # only stop tokens and strings end a response
                    max_tokens=source.most,
                    logprobs=1 if twofold else 0,
                    flat_logprobs=True,
                    detokenize=bool(sampling.stop),
                    skip_special_tokens=False,
                    output_kind=RequestOutputKind.FINAL_ONLY,
                )
                self.engine.add_request(name, {"prompt_token_ids": source.token_ids}, params)
        ended = 0
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            while self.engine.has_unfinished_requests():
                for output in list[Any](self.engine.step()):
                    if not output.finished:
                        continue
                    group, sample = where[output.request_id]
                    result: Any = output.outputs[0]
                    tokens = list(result.token_ids)
                    logps, raw = self._logps(result.logprobs, len(tokens), sampling, twofold)
                    stopped = result.finish_reason == "stop" or tokens[-1] in stops
                    ended += len(tokens)
                    yield Response(group, sample, tokens, logps, raw, stopped)
                if on_step is not None:
                    on_step(ended + self._unfinished_tokens())

    def _logps(self, flat: Any, count: int, sampling: Sampling, twofold: bool) -> tuple[list[float], list[float]]:
        """Reads the log-probs of a response: as sampled, and under the raw policy."""
        values, starts = flat.logprobs, flat.start_indices[:count]
        first = [values[i] for i in starts]
        if sampling.temperature == 0:
            return [0.0] * count, first
        return first, [values[i + 1] for i in starts] if twofold else first

    def _unfinished_tokens(self) -> int:
        states = self.engine.output_processor.request_states.values()
        return sum(state.detokenizer.num_output_tokens() for state in states if state.detokenizer is not None)

    def score(self, sequences: list[list[int]]) -> list[list[float]]:
        """Computes the log-probs (nats), under the raw policy, of every token except the first of each sequence."""
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            prompts: Any = [{"prompt_token_ids": ids} for ids in sequences]
            outputs: Any = self.llm.generate(prompts, params, use_tqdm=False)
        return [
            [row[token].logprob for row, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True)]
            for output, ids in zip(outputs, sequences, strict=True)
        ]

    # Weights ---------------------------------------------------------------------------------------------------------

    def load(self, pieces: Iterable[Piece]) -> None:
        """Writes the pieces into vLLM's parameters as they arrive (`loading.load`)."""
        load(self.model, pieces)

    def weights_changed(self) -> None:
        """Discards the prefix cache, which is of the old weights."""
        self.llm.reset_prefix_cache()

    # Memory ----------------------------------------------------------------------------------------------------------

    def sleep(self) -> None:
        """Frees KV cache and weights on a GPU; a CPU engine keeps both. The weights must be sent again before the next
        use."""
        if self.on_gpu and not self._asleep:
            self.llm.sleep(level=2)
        self._asleep = True

    def wake(self, what: str) -> None:
        """Allocates memory again: `weights` before loading, then `kv_cache` after it, when the loader's memory is
        free."""
        if self.on_gpu and self._asleep:
            self.llm.wake_up(tags=[what])
        if what == "kv_cache":
            self._asleep = False

    @property
    def asleep(self) -> bool:
        return self._asleep


class Timer:
    """Measures the seconds of the parts of a sync."""

    def __init__(self) -> None:
        self.start = time.perf_counter()

    def lap(self) -> float:
        now = time.perf_counter()
        seconds, self.start = now - self.start, now
        return seconds
