"""Runs the commands of a comparison, several at a time, with progress and the time left.

Each job is a list of command lines that run one after the other. A job that fails is reported and the others go on. Ctrl-C
ends the running jobs, which continue from their checkpoints when the comparison is started again.
"""

import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipeline.common.processes import die_with_parent, stop_tree
from pipeline.tracking.progress import duration

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One run of the comparison."""

    name: str
    commands: list[list[str]]
    """Each is the argv of a process."""
    log: Path
    """Gets what the processes print."""


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    name: str
    code: int
    """Exit code of the first command that failed, or 0."""
    message: str
    """Last line of its output, if it failed."""
    seconds: float


class Schedule:
    """One job at a time in each slot; a slot is what its processes find in their environment (which GPUs, say)."""

    def __init__(self, slots: list[dict[str, str]], cwd: Path, env: dict[str, str], say: Say = print):
        self.slots, self.cwd, self.env, self.say = slots, cwd, env, say
        self._free: queue.SimpleQueue[dict[str, str]] = queue.SimpleQueue()
        for slot in slots:
            self._free.put(slot)
        self._running: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def run(self, jobs: list[Job]) -> list[Outcome]:
        """All jobs, in their order as slots become free; returns outcomes in the same order.

        Raises KeyboardInterrupt after ending what runs.
        """
        outcomes: dict[str, Outcome] = {}
        started = time.monotonic()
        with ThreadPoolExecutor(len(self.slots), "compare") as pool, self._ending_on_interrupt():
            pending: set[Future[Outcome]] = {pool.submit(self._work, job) for job in jobs}
            while pending:
                done, pending = wait(pending, timeout=0.5, return_when=FIRST_COMPLETED)
                for future in done:
                    outcome = future.result()
                    outcomes[outcome.name] = outcome
                    self._report(outcome, len(outcomes), len(jobs), time.monotonic() - started)
        return [outcomes[job.name] for job in jobs]

    def _report(self, outcome: Outcome, done: int, total: int, elapsed: float) -> None:
        left = f", about {duration(elapsed / done * (total - done))} left" if done < total else ""
        ending = "done" if outcome.code == 0 else f"FAILED with exit code {outcome.code}: {outcome.message}"
        self.say(f"compare {done}/{total}  {outcome.name}: {ending} ({duration(outcome.seconds)}){left}")

    def _work(self, job: Job) -> Outcome:
        started = time.monotonic()
        job.log.parent.mkdir(parents=True, exist_ok=True)
        slot = self._free.get()
        try:
            with open(job.log, "ab") as log:
                for command in job.commands:
                    code = self._process(command, log, slot)
                    if code:
                        return Outcome(job.name, code, _last_line(job.log), time.monotonic() - started)
        finally:
            self._free.put(slot)
        return Outcome(job.name, 0, "", time.monotonic() - started)

    def _process(self, command: list[str], log, env: dict[str, str]) -> int:
        with self._lock:
            if self._stopping:
                return 1
            process = subprocess.Popen(
                command, cwd=self.cwd, env=self.env | env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=die_with_parent,
            )  # fmt: skip
            self._running.add(process)
        try:
            return process.wait()
        finally:
            with self._lock:
                self._running.discard(process)

    @contextmanager
    def _ending_on_interrupt(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            with self._lock:
                self._stopping = True
                running = list(self._running)
            for process in running:
                stop_tree(process.pid, grace_s=10.0)
            raise


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else "it printed nothing"
