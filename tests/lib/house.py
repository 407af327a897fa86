"""A very small run, and functions to start, watch and interrupt its stages as a person at a terminal would."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from cli import CliResult, end, environment, run_cli

from pipeline.common.files import read_jsonl

MICRO = """
defaults: {algo: etr, data: arithmetic, cluster: local}
model:
  family: qwen3
  num_layers: 2
  hidden_size: 32
  ffn_hidden_size: 64
  num_attention_heads: 4
  num_query_groups: 2
  head_dim: 8
  vocab_size: 64
  max_position_embeddings: 128
  tie_word_embeddings: true
  qk_norm: true
  init_std: 0.06
  dtype: fp32
  layouts: {1: {tp: 2, micro_batch_tokens: 1024}}
data: {arithmetic: {train: 64, held_out: 8, sft_rows: 64, sft_mixed_rows: 32}}
sft:
  phases: [{rows: sft, steps: 12, lr: 2.0e-3}, {rows: sft_mixed, steps: 8, lr: 1.0e-3}]
  batch_size: 4
  micro_batch_size: 2
  sequence_length: 64
  warmup_steps: 2
  gradient_checkpointing: false
  save_every: 3
rl:
  steps: 8
  prompts_per_step: 4
  group_size: 4
  minibatches: 2
  rows: padded
  save_every: 2
  optimizer: {lr: 1.0e-3, warmup_steps: 1, decay: linear}
rollout: {max_prompt_tokens: 32, max_new_tokens: 24, kv_memory_gib: 0.1}
algo: {reward_min: -1.0}
verify: {workers: 1, rewards: {correctness: 1.0, overlong: 1.0}, overlong_buffer: 24}
evaluate: {k: 2, bootstrap: 50, samples: 2}
"""
"""20,000 parameters. Hardly trained, the model never answers right; a reward for short responses makes groups
differ."""


@dataclass
class House:
    """A runs folder in which command lines are run."""

    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "micro.yaml").write_text(MICRO)

    def close(self) -> None:
        """Ends processes that a test left running."""
        for process in self.started:
            end(process)
            for stream in (process.stdout, process.stderr):
                stream.close()

    def words(self, stage: str, *words: str, name: str = "micro") -> list[str]:
        return [f"stage={stage}", "model=micro.yaml", "runs_dir=the runs", f"name={name}", *words]

    def run(self, stage: str, *words: str, name: str = "micro") -> CliResult:
        """Runs a stage to its end."""
        return run_cli(*self.words(stage, *words, name=name), cwd=self.folder, timeout=300)

    def start(
        self, stage: str, *words: str, name: str = "micro", env: dict[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """Starts a stage, with more environment variables if given, and leaves it running; `close` ends it."""
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.run.cli", *self.words(stage, *words, name=name)],
            cwd=self.folder, env=environment(ETR_FOLDER=str(self.folder), **(env or {})), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process

    def root(self, name: str = "micro") -> Path:
        return self.folder / "the runs" / name

    def copy(self, name: str, *stages: str) -> Path:
        """Makes a run of another name with the records of some finished stages of `micro`."""
        for stage in stages:
            shutil.copytree(self.root() / stage, self.root(name) / stage)
        return self.root(name)


def until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Waits until the condition holds while the process runs."""
    deadline = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it did not come to that"
        time.sleep(0.005)


def family(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    """Returns the process and all its descendants."""
    whole = psutil.Process(process.pid)
    return [whole, *whole.children(recursive=True)]


def ranks_of(process: "subprocess.Popen[str]", stage: str) -> list[psutil.Process]:
    """Returns the stage's ranks, in no particular order."""
    agents = [child for child in family(process) if "pipeline.run.torchrun" in child.cmdline()]
    return [rank for rank in agents[0].children() if f"stages.{stage}" in rank.cmdline()]


def assert_gone(processes: list[psutil.Process]) -> None:
    """Asserts that none of them is left, a moment after the end."""
    _, alive = psutil.wait_procs(processes, timeout=10)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


def kill_all(process: "subprocess.Popen[str]") -> None:
    """Kills everything at once with SIGKILL, as a loss of power would."""
    everyone = family(process)
    for one in everyone:
        with suppress(psutil.NoSuchProcess):  # it has just ended by itself
            one.send_signal(signal.SIGKILL)
    process.wait()
    assert_gone(everyone[1:])


TIMED = ("seconds/", "speed/", "verify/")
"""What depends on the moment: times, and the verifier's counts of its processes and its cache."""


def rows(file: Path) -> list[dict]:
    """What must be equal of two runs' metrics."""
    return [{k: v for k, v in row.items() if not k.startswith(TIMED)} for row in read_jsonl(file)]


def steps_done(file: Path) -> int:
    """Rows that a metrics file has by now."""
    return sum(1 for _ in read_jsonl(file)) if file.exists() else 0
