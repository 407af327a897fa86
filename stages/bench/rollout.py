"""`stage=bench what=rollout`: tokens a second of the native engine, beside transformers and (with `bench.peer_python`)
vLLM, on one small model and the same prompts; and how the cost grows with the number of sequences.

The native engine runs in every arrangement of the same cores: the preset's tensor parallelism, each rank a whole model,
and one process with all threads, as its peers have them; vLLM also runs as one process a rank. All take turns, so that
what else the machine does falls on each; medians are reported, by the clock and by processor time over all ranks.
Work: 8 prompts x 8 samples x 64 tokens, a Qwen2 of 4.3 million parameters, fp32, random weights.
"""

import contextlib
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_patches import parallel
from megatron_patches.engines.native.engine import NativeEngine
from megatron_patches.engines.replicas import Replicas
from megatron_patches.model.policy_model import build_chunks
from megatron_patches.model.weights import load_hf
from pipeline.rollout.interface import Prompt, Sampling
from pipeline.settings import Layout, Model, Settings
from stages.bench.peer import NOTHING, Cost, Peer

SHAPE = Model(
    family="qwen2", num_layers=4, hidden_size=256, ffn_hidden_size=800, num_attention_heads=4, num_query_groups=2,
    head_dim=64, vocab_size=4096, max_position_embeddings=512, tie_word_embeddings=True, qkv_bias=True, dtype="fp32",
    parameters=4_296_960,
)  # fmt: skip
PROMPTS, GROUP, TOKENS = 8, 8, 64
SEQUENCES = (32, 64, 128, 256, 512)
PEER = Path(__file__).parent / "peers" / "run_vllm.py"
Turn = Callable[[], Cost]
"""Runs the work once; on a rank that rests, nothing."""


def bench(settings: Settings) -> dict[str, Any]:
    """Medians of `bench.repeats` rounds; empty on other ranks than 0."""
    torch.manual_seed(settings.seed)
    model = transformers_model()
    arrangements = _arrangements(settings, model.state_dict())
    main = dist.get_rank() == 0
    prompts = random_prompts(PROMPTS)
    turns: dict[str, Turn] = {name: partial(_native, *some, prompts) for name, some in arrangements.items()}
    turns["transformers"] = partial(_generate, model.to(parallel.device()), prompts) if main else _rest
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        if settings.bench.peer_python:
            shared = [folder]
            dist.broadcast_object_list(shared, src=0)
            if main:
                model.save_pretrained(folder)
            dist.barrier()
            for name, some, cores in _shares_of_vllm(prompts):
                turns[name] = _rest
                if some:
                    turns[name] = stack.enter_context(_peer(settings.bench.peer_python, shared[0], some, cores)).turn
        costs = _in_turn(turns, settings.bench.repeats)
    first = next(iter(arrangements))
    growth = [_growth(*arrangements[first], count, settings.bench.repeats) for count in SEQUENCES]
    if not main:
        return {}
    made = PROMPTS * GROUP * TOKENS
    speed = {name: made / statistics.median(c.seconds for c in some) for name, some in costs.items()}
    processor = {name: statistics.median(c.processor_seconds for c in some) for name, some in costs.items()}
    peers = [name for name in speed if name not in arrangements]
    result = {
        "ranks": dist.get_world_size(),
        "tokens": made,
        "samples": {name: [c.seconds for c in some] for name, some in costs.items()},
        "tokens_per_second": speed,
        "processor_us_per_token": {name: some / made * 1e6 for name, some in processor.items()},
        "times_as_fast_as": {peer: {name: speed[name] / speed[peer] for name in arrangements} for peer in peers},
        "growth_of": first,
        "growth": growth,
    }
    print(_table(result), flush=True)
    return result


def _arrangements(settings: Settings, weights: dict[str, torch.Tensor]) -> dict[str, tuple[NativeEngine, int]]:
    """Engines on the same weights, with the threads that each rank uses: 0 threads, the rank rests."""
    threads = torch.get_num_threads()
    made: dict[str, tuple[NativeEngine, int]] = {}
    for tp in sorted({1, settings.layout.tp}, reverse=True):
        layout = Layout(tp=tp)
        # Megatron forgets the groups of the layout before; that layout's engine keeps what it needs of them.
        parallel.initialize(layout, settings.seed, settings.cluster.timeout_minutes)
        chunks = build_chunks(SHAPE, layout)
        load_hf(chunks, SHAPE, weights.__getitem__)
        engine = NativeEngine(chunks, SHAPE, settings.rollout)
        ranks = dist.get_world_size()
        made[f"native, tp {tp} x dp {ranks // tp}"] = engine, threads
        if tp == 1 and ranks > 1:
            alone = NativeEngine(chunks, SHAPE, settings.rollout)
            alone.replicas = Replicas(count=1, index=0, size=1, rank=0)
            made["native, one process"] = alone, threads * ranks if dist.get_rank() == 0 else 0
    return made


def _shares_of_vllm(prompts: list[Prompt]) -> Iterator[tuple[str, list[Prompt], list[int]]]:
    """Arrangements of vLLM by name, with this rank's prompts and cores: one process, and one for each rank."""
    ranks, rank, threads = dist.get_world_size(), dist.get_rank(), torch.get_num_threads()
    cores = sorted(os.sched_getaffinity(0))[: ranks * threads]
    yield "vllm", prompts if rank == 0 else [], cores
    if ranks > 1:
        yield f"vllm, {ranks} processes", prompts[rank::ranks], cores[rank * threads :][:threads]


def _peer(python: str, folder: str, prompts: list[Prompt], cores: list[int]) -> Peer:
    work = {"model": folder, "prompts": [prompt.token_ids for prompt in prompts], "group": GROUP, "tokens": TOKENS}
    return Peer(python, PEER, work | {"cores": cores}, threads=len(cores))


def random_prompts(count: int, vocab_size: int = SHAPE.vocab_size) -> list[Prompt]:
    """Of 12 to 24 tokens; the same at every call."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(12, 25, (count,), generator=generator).tolist()
    ids = [torch.randint(0, vocab_size, (n,), generator=generator).tolist() for n in lengths]
    return [Prompt(id=str(i), token_ids=some, gold="") for i, some in enumerate(ids)]


def _in_turn(turns: dict[str, Turn], repeats: int) -> dict[str, list[Cost]]:
    """What each took, every round in the same order, two rounds beforehand to warm up."""
    costs: dict[str, list[Cost]] = {name: [] for name in turns}
    for round_ in range(-2, repeats):
        for name, turn in turns.items():
            dist.barrier()
            took = turn().of_world()
            if round_ >= 0:
                costs[name].append(took)
    return costs


def _rest() -> Cost:
    return NOTHING


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def _native(engine: NativeEngine, threads: int, prompts: list[Prompt]) -> Cost:
    if not threads:
        return _rest()
    with _threads(threads):
        return Cost.of(lambda: engine.generate(prompts, GROUP, Sampling(max_new_tokens=TOKENS)))


def _growth(engine: NativeEngine, threads: int, sequences: int, repeats: int) -> dict[str, float]:
    """Medians for that number of sequences: seconds, and microseconds a token by the clock and of the processor."""
    prompts = random_prompts(sequences // GROUP)
    _native(engine, threads, prompts)
    costs = [_native(engine, threads, prompts).of_world() for _ in range(repeats)]
    seconds = statistics.median(c.seconds for c in costs)
    processor = statistics.median(c.processor_seconds for c in costs)
    us = 1e6 / (sequences * TOKENS)
    return {
        "sequences": sequences,
        "seconds": seconds,
        "us_per_token": seconds * us,
        "processor_us_per_token": processor * us,
    }


def transformers_model(shape: Model = SHAPE) -> Any:
    """A Qwen2 or Llama with random fp32 weights in transformers, the same on every rank."""
    from transformers import AutoModelForCausalLM, LlamaConfig, Qwen2Config

    config = (Qwen2Config if shape.family == "qwen2" else LlamaConfig)(
        vocab_size=shape.vocab_size, hidden_size=shape.hidden_size, intermediate_size=shape.ffn_hidden_size,
        num_hidden_layers=shape.num_layers, num_attention_heads=shape.num_attention_heads,
        num_key_value_heads=shape.num_query_groups, max_position_embeddings=shape.max_position_embeddings,
        tie_word_embeddings=shape.tie_word_embeddings, rms_norm_eps=shape.norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope.theta},
    )  # fmt: skip
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@torch.no_grad()
def _generate(model: Any, prompts: list[Prompt]) -> Cost:
    """transformers.generate on one left-padded batch, with all the machine's share of threads."""
    longest = max(len(prompt.token_ids) for prompt in prompts)
    ids = torch.zeros((len(prompts) * GROUP, longest), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row in range(len(ids)):
        tokens = prompts[row // GROUP].token_ids
        ids[row, longest - len(tokens) :] = torch.tensor(tokens)
        mask[row, longest - len(tokens) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    length = {"max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    with _threads(torch.get_num_threads() * dist.get_world_size()):
        return Cost.of(
            lambda: model.generate(ids, attention_mask=mask, do_sample=True, top_k=0, pad_token_id=0, **length)
        )


def _table(result: dict[str, Any]) -> str:
    peers = result["times_as_fast_as"]
    title = f"{result['ranks']} ranks, {result['tokens']} tokens"
    lines = [f"{title:30}tokens/s  processor us/token" + "".join(f"{'x ' + peer:>22}" for peer in peers)]
    for name, speed in result["tokens_per_second"].items():
        times = "".join(f"{peers[peer][name]:22.2f}" for peer in peers if name in peers[peer])
        lines.append(f"{name:30}{speed:8,.0f}{result['processor_us_per_token'][name]:20.0f}{times}")
    lines.append(f"{result['growth_of']}: sequences   seconds   us/token  processor us/token")
    for row in result["growth"]:
        cells = f"{row['seconds']:10.3f}{row['us_per_token']:11.1f}{row['processor_us_per_token']:20.1f}"
        lines.append(f"{row['sequences']:34}{cells}")
    return "\n".join(lines)
