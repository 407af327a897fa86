"""Kills a small training again and again, each time in another phase, and compares how it ends with an undisturbed run.

    .venv/bin/python tests/stages/kills.py <folder> rl          # or async, or partial
    .venv/bin/python tests/stages/kills.py <folder> rl 0:2      # the first two of its runs

The folder is made, and kept for the next call. `rl` saves every step; `async` does so with rl.async_save, `partial` with
responses that continue over updates (rollout.partial_tokens). A phase is met by
reading a rank's heartbeat. A moment within a save is met exactly: the rank waits at that file operation (hold.py). Victims are
one rank, all processes at once, or the launcher alone, each by SIGKILL. After each kill no process may be left and none of its
ports open. After the last start the run must equal the undisturbed one to the bit: weights, optimizer, metrics without
times, samples, and the names of all its files. Exit code 1 if anything differs.
"""

import os
import random
import shutil
import signal
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lib")]

import psutil  # noqa: E402
from house import House, family, kill_all, ranks_of  # noqa: E402
from run_differences import differences  # noqa: E402

from pipeline.common import heartbeat  # noqa: E402
from pipeline.common.tables import aligned  # noqa: E402

PHASES = ("join", "generate", "grade", "logprobs", "update", "save")
HOLDS = {
    "sync": r"phase ^sync$",  # the native engine shares the actor's weights: too short to be met otherwise
    "save: first moment": r"os.mkdir \.iter_\d+\.writing$",
    "save: before a file": r"open \.distcp$",
    "save: before the sums": r"open checksums\.json",
    "save: before the rename": r"os.rename \.iter_\d+\.writing$",
    "save: before latest": r"os.rename latest_checkpointed_iteration\.txt$",
    "save: before the old one goes": r"shutil.rmtree /iter_\d+$",
}
VICTIMS = ("rank 0", "rank 1", "all", "launcher")
PER_RUN = 10
"""Kills of one run."""
PATIENCE_S = 240
STEPS = 12
RL = [f"rl.steps={STEPS}", "rl.save_every=1", "rl.keep_checkpoints=2"]
WORDS = {"rl": RL, "async": [*RL, "rl.async_save=true"], "partial": [*RL, "rollout.partial_tokens=6"]}
UNDISTURBED = {"partial": "straight-partial"}
"""Runs to compare with, by kind; `straight` for the others."""


@dataclass(frozen=True)
class Kill:
    """One kill: where, who, and whether steps are left to the run before it."""

    moment: str
    victim: str
    later: bool


def plan(kind: str) -> list[list[Kill]]:
    """The kills of each run of a kind, in a fixed random order."""
    moments = {"async": [*HOLDS][1:]}.get(kind, [*PHASES, *HOLDS])
    triples = [
        (moment, victim, number)
        for number, moment in enumerate(moments)
        for victim in (f"rank {number % 2}", "all", "launcher")
    ]
    random.Random(kind).shuffle(triples)
    kills = [Kill(moment, victim, (number + order) % 2 == 1) for order, (moment, victim, number) in enumerate(triples)]
    return [kills[start : start + PER_RUN] for start in range(0, len(kills), PER_RUN)]


class Trial:
    """One run that is killed again and again."""

    def __init__(self, house: House, kind: str, name: str):
        self.house, self.name = house, name
        self.stage, self.holds = "rl", HOLDS
        self.words = WORDS[kind]
        self.root = house.copy(name, "preprocess", "convert")
        self.temporary = house.folder / f"tmp-{name}"
        self.temporary.mkdir()
        self.launchers: set[int] = set()
        self.wrong: list[str] = []

    def kill(self, kill: Kill) -> bool:
        """Starts the run and kills it there. False if the run ended before it came to that."""
        tag, mark = uuid.uuid4().hex, self.temporary.with_name(f"mark-{self.name}")
        mark.unlink(missing_ok=True)
        env = {"KILL_TAG": tag, "TMPDIR": str(self.temporary)}
        if kill.moment in self.holds:
            env |= {"HOLD_AT": self.holds[kill.moment], "HOLD_MARK": str(mark)}
            env["PYTHONPATH"] = f"{self.house.folder / 'hold'}{os.pathsep}{ROOT}"
        for file in (self.root / self.stage / "outcome").glob("*.heart"):
            file.unlink()
        process = self.house.start(self.stage, *self.words, name=self.name, env=env)
        self.launchers.add(process.pid)
        deadline, first = time.monotonic() + PATIENCE_S, None
        while not mark.exists():
            if process.poll() is not None:
                _, err = process.communicate()
                if process.returncode:
                    self.wrong.append(f"{kill}: the run ended with {process.returncode} before: {err[-2000:]}")
                return False
            if time.monotonic() > deadline:
                raise AssertionError(f"{kill}: not reached within {PATIENCE_S} s")
            record = heartbeat.read(heartbeat.heart_file(self.root / self.stage / "outcome", 0))
            if record is not None and kill.moment not in self.holds:
                first = record["step"] if first is None else first
                late = not kill.later or kill.moment == "join" or (first is not None and record["step"] > first)
                if record["phase"] == kill.moment and late:
                    break
            time.sleep(0.001)
        ports = _listening([one.pid for one in family(process)])
        self._strike(kill, process)
        self._look_for_what_is_left(kill, tag, ports)
        return True

    def _strike(self, kill: Kill, process: Any) -> None:
        if kill.victim == "all":
            kill_all(process)
        elif kill.victim == "launcher":
            process.kill()
        else:
            number = kill.victim.removeprefix("rank ")
            with suppress(psutil.NoSuchProcess):
                next(one for one in ranks_of(process, self.stage) if one.environ()["RANK"] == number).kill()
        try:
            process.communicate(timeout=60)
        except Exception as error:
            self.wrong.append(f"{kill}: {type(error).__name__}: the run does not end")
            kill_all(process)
        if kill.victim.startswith("rank") and process.returncode != 1:
            self.wrong.append(f"{kill}: exit code {process.returncode}, not 1")

    def _look_for_what_is_left(self, kill: Kill, tag: str, ports: set[int]) -> None:
        deadline = time.monotonic() + 10
        while ((left := _tagged(tag)) or ports & _listening(None)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left:
            self.wrong.append(f"{kill}: left behind: {process.pid} {' '.join(process.cmdline())[:200]}")
            process.kill()
        if still := ports & _listening(None):
            self.wrong.append(f"{kill}: ports are open still: {still}")

    def finish(self, straight: Path) -> None:
        """Runs to the end and compares."""
        process = self.house.start(self.stage, *self.words, name=self.name, env={"TMPDIR": str(self.temporary)})
        self.launchers.add(process.pid)
        _, err = process.communicate(timeout=PATIENCE_S)
        if process.returncode:
            self.wrong.append(f"the last start ended with {process.returncode}: {err[-2000:]}")
        self.wrong += differences(self.root, straight, self.stage)
        self.wrong += [
            f"left in the temporary folder: {path}"
            for path in self.temporary.iterdir()
            if "torchinductor" not in path.name
        ]
        for owner in Path("/dev/shm").glob("etr-*/owner"):
            with suppress(OSError):
                if int(owner.read_text()) in self.launchers:
                    self.wrong.append(f"left in memory: {owner.parent}")


def _listening(pids: list[int] | None) -> set[int]:
    """The ports on which some processes listen, or any process."""
    found = [one for one in psutil.net_connections("inet") if one.status == psutil.CONN_LISTEN]
    return {one.laddr.port for one in found if pids is None or one.pid in pids}


def _tagged(tag: str) -> list[psutil.Process]:
    """Living processes that descend from a start, whoever their parent is now."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("KILL_TAG") == tag and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def prepared(folder: Path, kind: str) -> House:
    """The small run with its first stages done, and an undisturbed run to compare `kind` with."""
    is_new = not folder.exists()
    house = House(folder)
    (folder / "hold").mkdir(exist_ok=True)
    shutil.copy(Path(__file__).with_name("hold.py"), folder / "hold" / "sitecustomize.py")
    if is_new:
        for stage in ("preprocess", "sft", "convert"):
            result = house.run(stage)
            assert result.code == 0, result.err
    straight = UNDISTURBED.get(kind, "straight")
    if not house.root(straight).exists():
        house.copy(straight, "preprocess", "convert")
        result = house.run("rl", *(RL if kind == "async" else WORDS[kind]), name=straight)
        assert result.code == 0, result.err
    return house


def main(folder: str, kind: str, part: str = ":") -> int:
    first, last = (int(bound) if bound else None for bound in part.split(":"))
    hit: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    house = prepared(Path(folder).resolve(), kind)
    try:
        for number, kills in list(enumerate(plan(kind)))[first:last]:
            trial = Trial(house, kind, f"{kind}-{number}-{uuid.uuid4().hex[:6]}")
            wrong += disturbed(trial, kills, hit, UNDISTURBED.get(kind, "straight"))
    finally:
        house.close()
    moments = dict.fromkeys(moment for moment, _ in hit)
    table = [(moment, *(str(hit[moment, victim]) for victim in VICTIMS)) for moment in moments]
    print("\n".join(aligned(("moment", *VICTIMS), table)))
    print(f"{sum(hit.values())} kills, {len(wrong)} things wrong")
    return 1 if wrong else 0


def disturbed(trial: Trial, kills: list[Kill], hit: Counter[tuple[str, str]], straight: str) -> list[str]:
    """Kills one run and lets it end; returns in what it differs from the run `straight`, and counts the kills."""
    for kill in kills:
        began = time.monotonic()
        reached = trial.kill(kill)
        hit[kill.moment, kill.victim] += reached
        said = "killed" if reached else "not reached"
        print(f"{trial.name}: {kill.moment}, {kill.victim}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
    trial.finish(trial.house.root(straight))
    print(f"{trial.name}:", *(trial.wrong or ["equal to the undisturbed run"]), sep="\n  ", flush=True)
    return trial.wrong


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main(*sys.argv[1:]))
