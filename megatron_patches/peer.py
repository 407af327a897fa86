"""Another project at the same work, in an environment of its own: benches give it a turn and read the seconds."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


class Peer:
    """`python script work`, which gets ready, does the work once whenever it reads a line, and answers `SECONDS <s>`.

    It has all cores of this world's ranks, which rest meanwhile. What else it prints goes to standard error.
    """

    def __init__(self, python: str, script: Path, work: dict[str, Any]):
        ours = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PYTHONPATH", "VIRTUAL_ENV")
        clean = {name: value for name, value in os.environ.items() if name not in ours}
        threads = str(torch.get_num_threads() * dist.get_world_size())
        self.process = subprocess.Popen(
            [python, str(script), json.dumps(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean | {"OMP_NUM_THREADS": threads},
        )

    def __enter__(self) -> "Peer":
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()

    def turn(self) -> float:
        """Seconds of doing the work once."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("SECONDS "):
                return float(line.split()[1])
        raise RuntimeError(f"the peer ended with code {self.process.wait()} before it had done its work; see above why")
