"""Stops one rank of a small run in each phase (SIGSTOP), and shows how the run ends.

    .venv/bin/python tests/stages/stops.py <folder>               # all phases
    .venv/bin/python tests/stages/stops.py <folder> save sync     # these

The folder is made, and kept for the next call. The rank waits as it enters the phase for the second time (tests/lib/hold.py)
and is stopped there. The run must end by itself, with exit code 1, within the limit and what it takes to say so, with one
screen that names rank, host, phase and step; no process and no port may be left. Exit code 1 if one did not.
"""

import re
import signal
import socket
import sys
import time
import uuid
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lib")]

from house import House  # noqa: E402
from trials import Trial, prepared_house  # noqa: E402

from pipeline.common.tables import aligned  # noqa: E402

LIMIT_MINUTES = 0.25
SLACK_S = 30
"""For the stacks, the end of the other ranks, and a busy machine."""
SCREEN_LINES = 24
"""Of a terminal: the error must be seen whole."""


@dataclass(frozen=True)
class Stop:
    """A phase in which one rank is stopped."""

    phase: str
    stage: str = "rl"
    rank: int = 1
    skip: int = 1
    """Times that the rank enters the phase before."""
    step: int = 2
    words: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.phase if self.stage == "rl" else f"{self.stage}-{self.phase}"


STOPS = (
    Stop("generate"),
    Stop("grade", rank=0),
    Stop("logprobs"),
    Stop("update", rank=0),
    Stop("save", words=("rl.save_every=1",)),
    Stop("sync", rank=0),
    Stop("evaluate", words=("rl.eval_every=1",)),
    Stop("update", "sft"),
    Stop("save", "sft", rank=0, step=4, words=("sft.save_every=2",)),
)


@dataclass(frozen=True)
class Found:
    """How the run ended."""

    stop: Stop
    seconds: float
    """From the stop to the end."""
    screen: str
    """What was printed as an error."""
    wrong: list[str]


def stopped(trial: Trial, stop: Stop, limit_minutes: float) -> Found:
    """Stops the rank, waits for the end of the run, and checks it."""
    limit = f"cluster.timeout_minutes={limit_minutes:g}"
    start = trial.start(limit, *stop.words, at=f"phase ^{stop.phase}$", rank=stop.rank, skip=stop.skip)
    reached = trial.reach(start)
    began, victim = time.monotonic(), trial.rank(start, stop.rank)
    if not reached or victim is None:
        return Found(stop, 0.0, start.process.communicate()[1], ["the run ended before that phase"])
    victim.send_signal(signal.SIGSTOP)
    most = 60 * limit_minutes + SLACK_S
    code, _, err = trial.end(start, stop.name, timeout_s=3 * most)
    seconds = time.monotonic() - began
    place = (
        rf"Rank {stop.rank} on {re.escape(socket.gethostname())} \(process {victim.pid}\): no sign of life for \d+ s, "
    )
    wrong = list(trial.wrong)
    if not re.match(rf"{place}last in {stop.phase} of step {stop.step}\.\n", err):
        wrong.append(f"the rank, or its phase and step, is not named first: {err[:200]!r}")
    wrong += [f"exit code {code}"] if code != 1 else []
    wrong += [f"{seconds:.0f} s, more than {most:.0f}"] if seconds > most else []
    wrong += ["more than a screen"] if len(err.splitlines()) > SCREEN_LINES else []
    return Found(stop, seconds, err, wrong)


def trial_of(house: House, stop: Stop) -> Trial:
    before = ("preprocess",) if stop.stage == "sft" else ("preprocess", "convert")
    return Trial(house, f"stop-{stop.name}-{uuid.uuid4().hex[:6]}", stop.stage, [], *before)


def main(folder: str, *names: str) -> int:
    house = prepared_house(Path(folder).resolve())
    table, failed = [], 0
    try:
        for stop in [stop for stop in STOPS if not names or stop.name in names]:
            trial = trial_of(house, stop)
            found = stopped(trial, stop, LIMIT_MINUTES)
            table.append((stop.name, str(stop.rank), f"{found.seconds:.0f}", "; ".join(found.wrong) or "as it must"))
            failed += bool(found.wrong)
            print(f"--- {stop.name}\n{found.screen}", flush=True)
            trial.close()
    finally:
        house.close()
    print(f"The limit is {60 * LIMIT_MINUTES:.0f} s.")
    print("\n".join(aligned(("phase", "rank", "seconds", "ended"), table)))
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main(*sys.argv[1:]))
