"""The benchmarks, in one table: `stage=bench what=<name>`. Standard library alone: `bash run.sh` reads it for its usage.

To add one: write `stages/bench/<name>.py` with `bench(settings) -> dict`, and add its line here.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class BenchEntry:
    """One benchmark."""

    text: str
    """What it measures, in one line."""
    reads: tuple[str, ...]
    """Patterns of the settings that it reads; any other key given to it is refused."""
    needs_ranks: bool = False
    """True if it runs under torchrun, on the actor's layout."""


_PEER = ("bench.repeats", "bench.peer_python", "seed", "cluster.*")

BENCHES = {
    "policy_head": BenchEntry(
        "log-probs and entropy of the policy head beside the naive way",
        reads=("bench.repeats", "bench.tokens", "bench.hidden", "bench.vocab", "cluster.*"),
    ),
    "objective": BenchEntry(
        "advantages, bounds, loss and metrics of a step; ETR beside GRPO",
        reads=("bench.repeats", "cluster.*"),
    ),
    "verifier": BenchEntry(
        "grading, by layer and in a pool; beside math-verify with bench.peer_python",
        reads=("bench.repeats", "bench.rows", "bench.peer_python"),
    ),
    "rollout": BenchEntry(
        "the native engine beside transformers, and vLLM with bench.peer_python",
        reads=(*_PEER, "layout.tp", "rollout.kv_memory_gib", "rollout.max_concurrent"),
        needs_ranks=True,
    ),
    "step": BenchEntry(
        "the phases of an RL step; ETR beside GRPO",
        reads=("bench.repeats", "seed", "cluster.*", "model.*", "layout.*", "rl.*", "rollout.*"),
        needs_ranks=True,
    ),
    "step_peer": BenchEntry(
        "a whole RL step beside TRL's with bench.peer_python",
        reads=(*_PEER, "bench.model", "bench.solved", "layout.*", "rl.*", "rollout.*"),
        needs_ranks=True,
    ),
}
"""By name, in the order in which they are listed."""


def module_of(name: str) -> str:
    """The module that holds a benchmark."""
    return f"stages.bench.{name}"
