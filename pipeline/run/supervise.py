"""Runs a command's processes to their end: signals on the way, no orphans, and the failing rank's error last."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.common.processes import die_with_parent, stop_tree
from pipeline.common.waiting import exit_code_of
from pipeline.run.launch import Command
from pipeline.stage import OUTCOME_FOLDER, PARENT, SPARE_FOLDER, STOP_FILE

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Ending:
    """How a job's processes ended on this node."""

    code: int
    """0, 2, 3 or 1, as `pipeline.stage` defines them."""
    result: dict[str, Any] = field(default_factory=dict)
    """What the stage's `main` returned on rank 0."""
    stopped: bool = False
    """Ended in good order before its end, because it was asked to."""
    message: str = ""
    """The error to print last; empty if the process has printed it itself."""


def run(command: Command, cwd: Path, folder: Path, ranks: range, stops: bool) -> Ending:
    """Start the command and wait for it.

    Args:
        folder: the stage's folder, in which outcome files, logs and the stop file are kept.
        ranks: this node's ranks.
        stops: whether the stage can finish its step when asked; otherwise the first Ctrl-C stops it at once.
    """
    outcomes = folder / "outcome"
    outcomes.mkdir(parents=True, exist_ok=True)
    for rank in ranks:
        (outcomes / f"rank{rank}.json").unlink(missing_ok=True)
    (outcomes / f"agent{ranks.start // len(ranks)}.json").unlink(missing_ok=True)
    stop_file = folder / "stop"
    stop_file.unlink(missing_ok=True)
    for word in command.argv:
        if word.startswith("--log-dir="):
            shutil.rmtree(cwd / word.partition("=")[2], ignore_errors=True)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # not the disk that may be full
    with tempfile.TemporaryDirectory(prefix="etr-", dir=memory) as spare:
        env = os.environ | command.env
        env |= {OUTCOME_FOLDER: str(outcomes), SPARE_FOLDER: spare, STOP_FILE: str(stop_file)}
        if "deepspeed.launcher.launch" not in command.argv:  # whose ranks are not children of this process
            env[PARENT] = str(os.getpid())
        started = time.time()
        # A session of its own: the terminal's Ctrl-C must not reach the ranks past the two-step handling here.
        process = subprocess.Popen(command.argv, cwd=cwd, env=env, start_new_session=True, preexec_fn=die_with_parent)
        with _Signals(process, stop_file, stops) as signals:
            code = exit_code_of(process)
        stop_file.unlink(missing_ok=True)
        if signals.count >= (2 if stops else 1):
            return Ending(1, stopped=True)
        files = _words((outcomes, Path(spare)), started)
    if code == 0:
        own = [files[f"rank{rank}.json"] for rank in ranks if f"rank{rank}.json" in files]
        stopped = any(outcome["stopped"] for outcome in own)
        return Ending(0, files.get("rank0.json", {}).get("result", {}), stopped)
    return _blame(command, cwd, files, ranks, code)


class _Signals:
    """While the processes run: the first signal asks the stage to stop after its step, the second stops all."""

    def __init__(self, process: subprocess.Popen[bytes], stop_file: Path, stops: bool) -> None:
        self.process, self.stop_file, self.stops = process, stop_file, stops
        self.count = 0
        self.old: dict[int, Any] = {}

    def __enter__(self) -> "_Signals":
        for number in SIGNALS:
            self.old[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        self.count += 1
        if self.stops and self.count == 1:
            self.stop_file.touch()
            _say("finishing the step and saving; once more stops at once")
        elif self.process.poll() is None:
            _say("stopping at once")
            stop_tree(self.process.pid)


def _words(folders: tuple[Path, ...], started: float) -> dict[str, Any]:
    """The outcome files of this start by name: of ranks on all nodes, and of the agents that ended in a failure."""
    found: dict[str, Any] = {}
    for path in (path for folder in folders for path in folder.glob("*.json")):
        word = _outcome(path)
        if word and (word["time"] if isinstance(word, dict) else path.stat().st_mtime) >= started:
            found[path.name] = word
    return found


def _blame(command: Command, cwd: Path, files: dict[str, Any], ranks: range, code: int) -> Ending:
    """Find the rank that failed first, on whatever node, and what it said; `files` are the outcome files by name."""
    failed = [word for name, word in files.items() if name.startswith("rank") and word["code"] != 0]
    first = min(failed, key=lambda outcome: outcome["time"], default=None)
    ended = [failure for name, word in files.items() if name.startswith("agent") for failure in word]
    # torchrun itself ends the peers of a failed rank, with SIGTERM and half a minute later with SIGKILL.
    early = min((failure["time"] for failure in ended), default=0) + 1
    own = [failure for failure in ended if failure["exitcode"] != -signal.SIGTERM and failure["time"] <= early]
    silent = [failure for failure in own or ended if all(outcome["rank"] != failure["rank"] for outcome in failed)]
    # A rank that a signal killed left no word; what its peers say ("connection closed by peer") only follows from it.
    killed = [failure for failure in silent if failure["exitcode"] < 0 and own]
    if killed or (silent and first is None):
        failure = (killed or silent)[0]
        how = _signal_name(failure["exitcode"])
        said = _tail(command, cwd, failure["local_rank"])
        return Ending(1, message=f"{said}Rank {failure['rank']} (process {failure['pid']}) {how}.")
    if first is None:
        how = _signal_name(code)
        return Ending(code if code in (2, 3) else 1, message=f"The process {how}." if code < 0 else "")
    place = f"Rank {first['rank']}"
    if first["host"] != socket.gethostname():
        place += f" on {first['host']}"
    prefix = f"{place}: " if len(ranks) > 1 or first["rank"] not in ranks else ""
    text = f"{first['traceback'].rstrip()}\n{place} failed." if first["traceback"] else f"{prefix}{first['message']}"
    return Ending(first["code"], message=text)


def _tail(command: Command, cwd: Path, local_rank: int) -> str:
    """The last lines that a rank wrote to its own log, if it has one."""
    folder = next((word.partition("=")[2] for word in command.argv if word.startswith("--log-dir=")), None)
    files = sorted((cwd / folder).glob(f"*/attempt_*/{local_rank}/stderr.log")) if folder else []
    text = files[-1].read_text("utf-8", "replace").strip() if files else ""
    return "\n".join(text.splitlines()[-40:]) + "\n" if text else ""


def _signal_name(exitcode: int) -> str:
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    hint = "; often that is the kernel, short of memory" if exitcode == -9 else ""
    return f"was killed by {name}{hint}"


def _outcome(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _say(text: str) -> None:
    print(f"\n[run] {text}", file=sys.stderr, flush=True)
