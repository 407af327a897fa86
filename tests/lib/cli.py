"""The command line, for tests."""

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
"""A preset for the tests, whose settings do not change with the tiny preset's."""


@dataclass(frozen=True)
class CliResult:
    """The result of a command line."""

    code: int
    out: str
    err: str


def preset(folder: Path, text: str = TINY_SHAPE, name: str = "mini") -> Path:
    """Writes a model preset file for a test; `model=<path>` selects it."""
    path = folder / f"{name}.yaml"
    path.write_text(text)
    return path


def environment(**extra: str) -> dict[str, str]:
    """Makes the environment of a command line, without the variables of a scheduler or launcher around the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM", "ETR_", "TORCHELASTIC"))}
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        kept.pop(name, None)
    return kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | extra


def run_cli(*arguments: str, cwd: Path = ROOT, timeout: float = 60.0, **extra: str) -> CliResult:
    """Runs `python -m pipeline.run.cli <arguments>`, as run.sh does once the environment exists."""
    env = environment(ETR_FOLDER=str(cwd), **extra)
    result = subprocess.run(
        [sys.executable, "-m", "pipeline.run.cli", *arguments],
        cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    return CliResult(result.returncode, result.stdout, result.stderr)


def worked(out: str) -> list[str]:
    """The stages whose stand-ins have run, from what the command line printed (tests/run/conftest.py)."""
    return [line.removeprefix("worked on ") for line in out.splitlines() if line.startswith("worked on ")]


def end(process: subprocess.Popen[str]) -> None:
    """Ends a started process and its session."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
