"""Runs the processes of a command until they end: handles signals, leaves no orphans, finds the error to print last."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from pipeline.common import scratch
from pipeline.common.processes import die_with_parent, stop_tree
from pipeline.common.waiting import exit_code_of
from pipeline.run import attempts
from pipeline.run.launch import Command
from pipeline.run.watchdog import COLLECTIVES, NOTICE, Watchdog
from pipeline.stage import LOG_FOLDER, OUTCOME_FOLDER, PARENT, STOP_FILE

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
TAIL_LINES = 40
"""Lines shown of the log of a rank that left no error."""


@dataclass(frozen=True)
class Ending:
    """How the processes of a job ended on this node."""

    code: int
    """0, 2, 3 or 1, as `pipeline.stage` defines them."""
    result: dict[str, Any] = field(default_factory=dict)
    """What the stage's `main` returned on rank 0."""
    stopped: bool = False
    """It saved and ended early, because it was asked to stop, or was stopped at once."""
    asked: bool = False
    """It was asked to stop. A stage that was in its last step finishes all the same, and is not `stopped`."""
    message: str = ""
    """The error to print last; empty if the process has printed it itself."""


def run(
    command: Command, cwd: Path, folder: Path, ranks: range, stops: bool, watchdog: Watchdog | None = None
) -> Ending:
    """Starts the command and waits for it.

    Args:
        folder: the stage's folder, for outcome files, logs and the stop file.
        ranks: this node's ranks.
        stops: whether the stage can finish its step when asked; if not, the first Ctrl-C stops it at once.
        watchdog: ends ranks that stop answering.
    """
    outcomes = folder / "outcome"
    outcomes.mkdir(parents=True, exist_ok=True)
    for rank in ranks:
        (outcomes / f"rank{rank}.json").unlink(missing_ok=True)
    (outcomes / f"agent{ranks.start // len(ranks)}.json").unlink(missing_ok=True)
    stop_file = folder / "stop"
    stop_file.unlink(missing_ok=True)
    logs = _logs(folder, ranks.start, len(ranks))
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir(parents=True, exist_ok=True)
    with scratch.folder() as spare:
        if watchdog is not None:
            watchdog.begin(outcomes, logs, spare)
        env = os.environ | command.env
        env |= {OUTCOME_FOLDER: str(outcomes), scratch.FOLDER: str(spare)}
        env |= {STOP_FILE: str(stop_file), LOG_FOLDER: str(logs)} | flight_recorder(logs, spare)
        if "deepspeed.launcher.launch" not in command.argv:  # whose ranks are not children of this process
            env[PARENT] = str(os.getpid())
        started = time.time()
        # In a new session, so that the terminal's Ctrl-C reaches this process only, which handles it in two steps.
        process = subprocess.Popen(command.argv, cwd=cwd, env=env, start_new_session=True, preexec_fn=die_with_parent)
        with _Signals(process, stop_file, stops) as signals:
            code = exit_code_of(process, None if watchdog is None else lambda: watchdog.look(process.pid))
        stop_file.unlink(missing_ok=True)
        if signals.count >= (2 if stops else 1):
            return Ending(1, stopped=True, asked=True)
        files, newest = _outcomes((outcomes, spare), started), attempts.begun(spare)
    if code == 0:
        own = [files[f"rank{rank}.json"] for rank in ranks if f"rank{rank}.json" in files]
        stopped = any(outcome["stopped"] for outcome in own)
        return Ending(0, files.get("rank0.json", {}).get("result", {}), stopped, asked=signals.count > 0)
    if watchdog is not None and watchdog.verdict and watchdog.ended > newest:
        return Ending(1, message=watchdog.verdict)
    return _blame(folder, files, ranks, code)


def flight_recorder(logs: Path, spare: Path) -> dict[str, str]:
    """NCCL keeps its last collectives in memory, and writes them to the logs when one times out or when the watchdog asks
    through a pipe. What the user has set stays; without NCCL nothing reads this."""
    values = {
        "TORCH_FR_BUFFER_SIZE": "2000",
        "TORCH_NCCL_DUMP_ON_TIMEOUT": "1",
        "TORCH_NCCL_DEBUG_INFO_TEMP_FILE": str(logs / COLLECTIVES),
        "TORCH_NCCL_DEBUG_INFO_PIPE_FILE": str(spare / COLLECTIVES),
    }
    return {name: value for name, value in values.items() if name not in os.environ}


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
            _say("finishing the step and saving; press Ctrl-C again to stop at once")
        elif self.process.poll() is None:
            _say("stopping at once")
            stop_tree(self.process.pid)


def _outcomes(folders: tuple[Path, ...], started: float) -> dict[str, Any]:
    """The outcome files of this start by name: one of each rank on all nodes, and one of each agent that failed."""
    found: dict[str, Any] = {}
    for path in (path for folder in folders for path in folder.glob("*.json")):
        outcome = _read(path)
        if outcome and (outcome["time"] if isinstance(outcome, dict) else path.stat().st_mtime) >= started:
            found[path.name] = outcome
    return found


def _blame(folder: Path, files: dict[str, Any], ranks: range, code: int) -> Ending:
    """Finds the rank that failed first, on any node, and its error; `files` are the outcome files by name."""
    notices = [notice for name, notice in files.items() if name.startswith(NOTICE)]
    if notices:  # all other errors follow from what they say
        notice = min(notices, key=lambda notice: notice["time"])
        return Ending(notice.get("code", 1), message=notice["message"])
    failed = [outcome for name, outcome in files.items() if name.startswith("rank") and outcome["code"] != 0]
    first = min(failed, key=lambda outcome: outcome["time"], default=None)
    ended = [failure for name, failures in files.items() if name.startswith("agent") for failure in failures]
    # torchrun itself ends the peers of a failed rank, with SIGTERM and half a minute later with SIGKILL.
    early = min((failure["time"] for failure in ended), default=0) + 1
    own = [failure for failure in ended if failure["exitcode"] != -signal.SIGTERM and failure["time"] <= early]
    silent = [failure for failure in own or ended if all(outcome["rank"] != failure["rank"] for outcome in failed)]
    # A rank that a signal killed wrote no outcome; errors of its peers ("connection closed by peer") follow from its end.
    killed = [failure for failure in silent if failure["exitcode"] < 0 and own]
    if killed or (silent and first is None):
        failure = (killed or silent)[0]
        how = _signal_name(failure["exitcode"])
        last_lines = _tail(_logs(folder, failure["rank"], len(ranks)), failure["rank"], failure["local_rank"])
        return Ending(1, message=f"{last_lines}Rank {failure['rank']} (process {failure['pid']}) {how}.")
    if first is None:
        last_lines = _tail(_logs(folder, ranks.start, len(ranks)), ranks.start, 0)
        how = f"The process {_signal_name(code)}." if code < 0 or last_lines else ""
        return Ending(code if code in (2, 3) else 1, message=last_lines + how)
    place = f"Rank {first['rank']}"
    if first["host"] != socket.gethostname():
        place += f" on {first['host']}"
    if first["traceback"]:
        log = _logs(folder, first["rank"], len(ranks)) / f"rank{first['rank']}.log"
        return Ending(first["code"], message=f"{first['traceback'].rstrip()}\n{place} failed. Its log: {log}")
    prefix = f"{place}: " if len(ranks) > 1 or first["rank"] not in ranks else ""
    return Ending(first["code"], message=prefix + first["message"])


def _logs(folder: Path, rank: int, per_node: int) -> Path:
    """Where the node of a rank keeps its logs: `rank<k>.log`, `agent.log`, and what torchrun catches before these."""
    return folder / "logs" / f"node{rank // per_node}"


def _tail(logs: Path, rank: int, local_rank: int) -> str:
    """The last lines that a rank wrote to its logs, with the name of the log; empty if there are none."""
    log = logs / f"rank{rank}.log"
    caught = list(logs.glob(f"*/attempt_*/{local_rank}/stderr.log"))  # before the rank opened its own log
    newest = sorted(caught, key=lambda path: path.stat().st_mtime)[-1:]
    text = "\n".join(path.read_text("utf-8", "replace").strip() for path in (*newest, log) if path.exists()).strip()
    if not text:
        return ""
    return "\n".join([f"The end of {log}:", *text.splitlines()[-TAIL_LINES:]]) + "\n"


def _signal_name(exitcode: int) -> str:
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    hint = "; often the kernel does that when memory runs out" if exitcode == -signal.SIGKILL else ""
    return f"was killed by {name}{hint}"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None


def _say(text: str) -> None:
    print(f"\n[run] {text}", file=sys.stderr, flush=True)
