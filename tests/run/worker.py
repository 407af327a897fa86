"""A rank that ends as TEST_MODE says; rank 0 always waits for the others in a collective."""

import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pipeline.common import heartbeat
from pipeline.common.errors import InputError
from pipeline.common.files import write_text
from pipeline.stage import StageRun, run_stage

MODE = os.environ["TEST_MODE"]


def main(run: StageRun) -> dict:
    if MODE != "deaf":
        import torch  # seconds that the tests of a deaf rank need not spend

        torch.distributed.init_process_group("gloo")
    print(f"rank {run.rank} of {run.world_size}", flush=True)
    if MODE.startswith("silent"):
        wait_in_vain(run)
    if MODE == "steps":
        return make_steps(run)
    if MODE == "writer":
        write(run)
    if run.rank == 1:
        fail(run)
    if MODE in ("loop", "deaf"):
        # A child of the rank's own, as a verifier's worker is: it must not be left behind either.
        child = subprocess.Popen([sys.executable, "-c", CHILD, str(os.getpid())])
        write_text(Path(sys.argv[1]).parents[1] / f"started.{run.rank}", str(os.getpid()))
        while MODE == "deaf" or not run.should_stop():
            time.sleep(0.02)
        child.kill()
        child.wait()
        return {"saved": True}
    total = torch.tensor([run.rank + 1.0])
    torch.distributed.all_reduce(total)
    return {"sum": total.item()}


def make_steps(run: StageRun) -> dict:
    """Steps in which the ranks wait for each other, until asked to stop."""
    import torch

    for step in itertools.count(1):
        heartbeat.step(step)
        with heartbeat.phase("update"):
            torch.distributed.barrier()
        if step == 3:
            write_text(Path(sys.argv[1]).parents[1] / f"started.{run.rank}", str(os.getpid()))
        if run.should_stop():
            break
        time.sleep(0.02)
    return {"steps": step}


def wait_in_vain(run: StageRun) -> None:
    """Rank 1 is stopped at the first start, and turns in a circle after the restart; rank 0 waits in a collective."""
    import torch

    for step in (1, 2):
        heartbeat.step(step)
        with heartbeat.phase("generate"):
            if run.rank == 1 and step == 2:
                if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                    os.kill(os.getpid(), signal.SIGSTOP)
                while True:
                    time.sleep(0.01)
        with heartbeat.phase("update"):
            torch.distributed.barrier()


def write(run: StageRun) -> None:
    """Rank 1 has a grading pool, and Megatron's own checkpoint writer, which waits for a reader of its file."""
    from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync

    from pipeline.verify import VerifierPool

    if run.rank == 1:
        pool = VerifierPool(workers=1)
        assert pool.grade_many([("1", "1")])[0].correct
        file = Path(sys.argv[1]).with_name("a.distcp")
        os.mkfifo(file)
        write_text(Path(sys.argv[1]).parents[1] / "started.1", str(os.getpid()))
        FileSystemWriterAsync.write_preloaded_data_multiproc([], False, 0, [(str(file), file.name, ([], []))], None)


CHILD = """
import sys, time
from pipeline.common.processes import die_with_parent
die_with_parent(int(sys.argv[1]))
time.sleep(60)
"""


def fail(run: StageRun) -> None:
    if MODE == "input":
        raise InputError("the file x.jsonl is missing")
    if MODE == "raise":
        raise ValueError("rank one is ill")
    if MODE == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    marker = Path(sys.argv[1]).with_name("failed-once")
    if MODE in ("once", "raise, killed") and not marker.exists():
        marker.touch()
        raise ValueError("rank one is ill at first")
    if MODE == "raise, killed":
        os.kill(os.getpid(), signal.SIGKILL)


if os.environ["RANK"] == "1":
    if MODE == "import":
        import nothing_like_it  # noqa: F401
    if MODE == "silent, killed" and os.environ["TORCHELASTIC_RESTART_COUNT"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)
if MODE.startswith("silent"):
    import torch  # noqa: F401  before the watchdog's limit, which is short, counts

if __name__ == "__main__":
    run_stage(main)
