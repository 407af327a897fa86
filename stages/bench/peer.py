"""Runs another project on the same work, in that project's environment; benchmarks give it a turn and read its cost."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Cost:
    """Of doing some work once."""

    seconds: float
    processor_seconds: float
    """Of all threads and ranks; unlike the clock it hardly grows when something else wants the cores."""

    @classmethod
    def of(cls, work: Callable[[], object]) -> "Cost":
        """Of this rank alone."""
        clock, processor = time.perf_counter(), time.process_time()
        work()
        return cls(time.perf_counter() - clock, time.process_time() - processor)

    def of_world(self) -> "Cost":
        """Of all ranks, each of which calls this: the longest by the clock, processor time summed."""
        everywhere: list[Cost] = [self] * dist.get_world_size()
        dist.all_gather_object(everywhere, self)
        return Cost(max(c.seconds for c in everywhere), sum(c.processor_seconds for c in everywhere))


NOTHING = Cost(0.0, 0.0)


class Peer:
    """`python script work`, which gets ready, does the work once whenever it reads a line, and answers with
    `SECONDS <by the clock> <of the processor>`.

    It has `threads`, by default those of all of this world's ranks, which rest meanwhile. What else it prints goes to
    standard error.
    """

    def __init__(self, python: str, script: Path, work: dict[str, Any], threads: int | None = None):
        ours = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONPATH", "VIRTUAL_ENV")
        clean = {name: value for name, value in os.environ.items() if name not in ours}
        threads = threads or torch.get_num_threads() * dist.get_world_size()
        self.process = subprocess.Popen(
            [python, str(script), json.dumps(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean | {"OMP_NUM_THREADS": str(threads)},
        )

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def turn(self) -> Cost:
        """Do the work once."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended; so do its lines
            self.process.stdin.write("go\n")
            self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("SECONDS "):
                return Cost(*map(float, line.split()[1:]))
        raise RuntimeError(f"the peer ended with code {self.process.wait()} before it had done its work; see above why")
