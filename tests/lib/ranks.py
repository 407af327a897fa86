"""Real ranks for parallel tests: one Python process each, joined over gloo on this machine."""

import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class RankResult:
    """The result of one rank."""

    rank: int
    code: int
    stdout: str
    stderr: str


def free_port() -> int:
    """Returns a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(
    world_size: int,
    script_path: str | Path,
    *args: object,
    timeout: float = 120.0,
    env: dict[str, str] | None = None,
) -> list[RankResult]:
    """Runs `python script_path *args` once per rank with torchrun's environment (RANK, WORLD_SIZE, LOCAL_RANK,
    MASTER_ADDR, MASTER_PORT; one thread each), and waits for all.

    The script calls `torch.distributed.init_process_group("gloo")` itself. If a rank fails or the time is up, all ranks
    are killed, and an AssertionError with the failing rank's stderr is raised.
    """
    port = free_port()
    base = os.environ | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'lib'}",
        "PYTHONUNBUFFERED": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, str(script_path), *map(str, args)]
    with contextlib.ExitStack() as stack:
        files = [
            (stack.enter_context(tempfile.TemporaryFile()), stack.enter_context(tempfile.TemporaryFile()))
            for _ in range(world_size)
        ]
        processes = [
            subprocess.Popen(
                command,
                cwd=ROOT,
                env=base | {"RANK": str(rank), "LOCAL_RANK": str(rank)} | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
            for rank, (out, err) in enumerate(files)
        ]
        try:
            first = _wait(processes, timeout)
        finally:
            for process in processes:
                _kill(process)
            results = [
                RankResult(rank, process.returncode, _text(out), _text(err))
                for rank, (process, (out, err)) in enumerate(zip(processes, files, strict=True))
            ]
    if first is None:
        return results
    blamed, reason = first
    others = [r for r in results if r.rank != blamed]
    raise AssertionError(
        "".join(f"--- rank {r.rank} (exit {r.code})\n{r.stdout[-1500:]}{r.stderr[-1500:]}\n" for r in others)
        + f"--- rank {blamed} {reason}\n{results[blamed].stdout[-4000:]}\n{results[blamed].stderr[-8000:]}"
    )


def _wait(processes: list[subprocess.Popen[bytes]], timeout: float) -> tuple[int, str] | None:
    """Waits for all ranks. Returns None if all succeeded, else the rank that failed and why."""
    deadline = time.monotonic() + timeout
    while True:
        codes = [process.poll() for process in processes]
        failed = [rank for rank, code in enumerate(codes) if code not in (None, 0)]
        if failed:
            return failed[0], f"failed first (exit {codes[failed[0]]})"
        if all(code == 0 for code in codes):
            return None
        if time.monotonic() > deadline:
            return codes.index(None), f"had not ended after {timeout:.0f} s"
        time.sleep(0.02)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills the rank and everything in the process group of its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, 9)
    process.wait()


def _text(file) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
