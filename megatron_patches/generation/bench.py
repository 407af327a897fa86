"""`stage=bench what=rollout`: tokens a second of the native engine, beside transformers and (with `bench.peer_python`)
vLLM, on one small model and the same prompts; and how the cost grows with the number of sequences.

The engines take turns, so that what else the machine does falls on all of them; medians are reported. Work: 8 prompts x
8 samples x 64 tokens, a Qwen2 of 4.3 million parameters, fp32, random weights.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_patches import parallel
from megatron_patches.generation.engine import NativeEngine
from megatron_patches.policy_model import build_chunks
from megatron_patches.weights import export_tensors
from pipeline.rollout.interface import Prompt, Sampling
from pipeline.settings import Layout, Model, Settings

SHAPE = Model(
    family="qwen2", num_layers=4, hidden_size=256, ffn_hidden_size=800, num_attention_heads=4, num_query_groups=2,
    head_dim=64, vocab_size=4096, max_position_embeddings=512, tie_word_embeddings=True, qkv_bias=True, dtype="fp32",
    parameters=4_296_960,
)  # fmt: skip
PROMPTS, GROUP, TOKENS = 8, 8, 64
SEQUENCES = (32, 64, 128, 256, 512)
PEER = Path(__file__).with_name("vllm_peer.py")
Turn = Callable[[], float]
"""Runs the work once; returns seconds."""


def bench(settings: Settings) -> dict[str, Any]:
    """Medians of `bench.repeats` rounds; on every rank, complete on rank 0."""
    layout = Layout(tp=settings.layout.tp)
    parallel.initialize(layout, settings.seed, settings.cluster.timeout_minutes)
    torch.manual_seed(settings.seed)
    chunks = build_chunks(SHAPE, layout)
    engine = NativeEngine(chunks, settings.model_copy(update={"model": SHAPE, "layout": layout}))
    prompts = _prompts(PROMPTS)
    main = dist.get_rank() == 0
    with tempfile.TemporaryDirectory() as folder:
        turns: dict[str, Turn] = {"native": lambda: _native(engine, prompts)}
        model = _transformers(chunks)
        if main:
            turns["transformers"] = lambda: _generate(model, prompts)
        peer = None
        if main and settings.bench.peer_python:
            model.save_pretrained(folder)
            peer = _Peer(settings.bench.peer_python, folder, prompts)
            turns["vllm"] = peer.turn
        seconds = _in_turn(turns, settings.bench.repeats)
        if peer is not None:
            peer.close()
    growth = [_growth(engine, count, settings.bench.repeats) for count in SEQUENCES]
    made = PROMPTS * GROUP * TOKENS
    speed = {name: made / statistics.median(some) for name, some in seconds.items()}
    result = {
        "layout": {"ranks": dist.get_world_size(), "tp": layout.tp, "threads": torch.get_num_threads()},
        "tokens": made,
        "seconds": seconds,
        "tokens_per_second": speed,
        "native_over": {name: speed["native"] / other for name, other in speed.items() if name != "native"},
        "growth": growth,
    }
    if main:
        print(_table(result), flush=True)
    return result


def _prompts(count: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(12, 25, (count,), generator=generator).tolist()
    ids = [torch.randint(0, SHAPE.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    return [Prompt(id=str(i), token_ids=some, gold="") for i, some in enumerate(ids)]


def _in_turn(turns: dict[str, Turn], repeats: int) -> dict[str, list[float]]:
    """Seconds of each, every round in the same order, one round beforehand to warm up. Ranks without a turn wait."""
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for round_ in range(repeats + 1):
        for name, turn in turns.items():
            dist.barrier()
            took = turn()
            if round_:
                seconds[name].append(took)
        for _ in range(_most(len(turns)) - len(turns)):
            dist.barrier()
    return seconds


def _most(count: int) -> int:
    value = torch.tensor(count, device=parallel.device())
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return int(value)


def _native(engine: NativeEngine, prompts: list[Prompt], group: int = GROUP) -> float:
    start = time.perf_counter()
    engine.generate(prompts, group, Sampling(max_new_tokens=TOKENS))
    return time.perf_counter() - start


def _growth(engine: NativeEngine, sequences: int, repeats: int) -> dict[str, float]:
    """Median seconds for so many sequences, and microseconds a token."""
    prompts = _prompts(sequences // GROUP)
    _native(engine, prompts)
    seconds = statistics.median(_native(engine, prompts) for _ in range(repeats))
    return {"sequences": sequences, "seconds": seconds, "us_per_token": seconds / (sequences * TOKENS) * 1e6}


def _transformers(chunks: list) -> Any:
    """The same weights in transformers, on every rank (the export is collective)."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=SHAPE.vocab_size, hidden_size=SHAPE.hidden_size, intermediate_size=SHAPE.ffn_hidden_size,
        num_hidden_layers=SHAPE.num_layers, num_attention_heads=SHAPE.num_attention_heads,
        num_key_value_heads=SHAPE.num_query_groups, max_position_embeddings=SHAPE.max_position_embeddings,
        tie_word_embeddings=True, rms_norm_eps=SHAPE.norm_eps,
    )  # fmt: skip
    model = Qwen2ForCausalLM(config).to(parallel.device()).eval()
    model.load_state_dict(dict(export_tensors(chunks, SHAPE)), strict=False)
    return model


@torch.no_grad()
def _generate(model: Any, prompts: list[Prompt]) -> float:
    """transformers.generate on one left-padded batch, with all the machine's share of threads."""
    longest = max(len(prompt.token_ids) for prompt in prompts)
    ids = torch.zeros((len(prompts) * GROUP, longest), dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row in range(len(ids)):
        tokens = prompts[row // GROUP].token_ids
        ids[row, longest - len(tokens) :] = torch.tensor(tokens)
        mask[row, longest - len(tokens) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    threads = torch.get_num_threads()
    torch.set_num_threads(threads * dist.get_world_size())
    start = time.perf_counter()
    model.generate(
        ids, attention_mask=mask, do_sample=True, top_k=0, max_new_tokens=TOKENS, min_new_tokens=TOKENS, pad_token_id=0
    )
    seconds = time.perf_counter() - start
    torch.set_num_threads(threads)
    return seconds


class _Peer:
    """vLLM in a Python of its own, which does the work whenever it reads a line and answers with the seconds."""

    def __init__(self, python: str, folder: str, prompts: list[Prompt]):
        work = {"model": folder, "prompts": [p.token_ids for p in prompts], "group": GROUP, "tokens": TOKENS}
        clean = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONPATH")}
        threads = str(torch.get_num_threads() * dist.get_world_size())
        self.process = subprocess.Popen(
            [python, str(PEER), json.dumps(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean | {"OMP_NUM_THREADS": threads},
        )

    def turn(self) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("SECONDS "):
                return float(line.split()[1])
        raise RuntimeError(f"the vLLM peer ended with code {self.process.wait()} before it had done its work")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def _table(result: dict[str, Any]) -> str:
    layout = result["layout"]
    lines = [
        f"{layout['ranks']} ranks, tp {layout['tp']}, {layout['threads']} threads a rank; {result['tokens']} tokens"
    ]
    for name, speed in result["tokens_per_second"].items():
        beside = f"  native is {result['native_over'][name]:.2f} times as fast" if name != "native" else ""
        lines.append(f"{name:14}{speed:9,.0f} tokens/s{beside}")
    lines.append("sequences   seconds   us/token")
    lines += [f"{g['sequences']:9}{g['seconds']:10.3f}{g['us_per_token']:11.1f}" for g in result["growth"]]
    return "\n".join(lines)
