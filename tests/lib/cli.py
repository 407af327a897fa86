"""The command line, as a test calls it."""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

TINY_SHAPE = """
defaults: {cluster: local}
model:
  family: qwen3
  num_layers: 4
  hidden_size: 64
  ffn_hidden_size: 96
  num_attention_heads: 4
  num_query_groups: 2
  head_dim: 16
  vocab_size: 64
  max_position_embeddings: 256
  tie_word_embeddings: true
  qk_norm: true
  dtype: fp32
  layouts: {1: {tp: 2, micro_batch_tokens: 1024}}
rollout: {max_prompt_tokens: 64, max_new_tokens: 64}
rl: {prompts_per_step: 4, group_size: 4, minibatches: 2}
"""
"""A preset whose settings belong to the tests, so that they do not move with the tiny preset's."""


@dataclass(frozen=True)
class CliResult:
    """How a command line ended."""

    code: int
    out: str
    err: str


def preset(folder: Path, text: str = TINY_SHAPE, name: str = "mini") -> Path:
    """A model preset file of the test's own; `model=<path>` chooses it."""
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def environment(**extra: str) -> dict[str, str]:
    """The environment of a command line: nothing of a scheduler's or a launcher's around the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "ETR_", "TORCHELASTIC"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        kept.pop(name, None)
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | extra


def run_cli(*words: str, cwd: Path = ROOT, timeout: float = 60.0, **extra: str) -> CliResult:
    """Run `python -m pipeline.run.cli <words>`, which is what run.sh starts once the environment is there."""
    env = environment(ETR_FOLDER=str(cwd), **extra)
    result = subprocess.run(
        [sys.executable, "-m", "pipeline.run.cli", *words],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return CliResult(result.returncode, result.stdout, result.stderr)


def end(process: subprocess.Popen[str]) -> None:
    """Make sure that a started process and its session are gone."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
