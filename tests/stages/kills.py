"""Kills a small training again and again, each time in another phase, and compares how it ends with an undisturbed run.

    .venv/bin/python tests/stages/kills.py <folder> rl          # or async, partial, or sft
    .venv/bin/python tests/stages/kills.py <folder> rl 0:2      # the first two of its runs

The folder is made, and kept for the next call. `rl` saves every step; `async` does so with rl.async_save, `partial` with
responses that continue over updates (rollout.partial_tokens); `sft` is the warm-up. A phase is met by reading a rank's
heartbeat. A moment within a save is met exactly: the rank waits at that file operation (tests/lib/hold.py). Victims are one
rank, all processes at once, or the launcher alone, each by SIGKILL. After each kill no process may be left and none of its
ports open. After the last start the run must equal the undisturbed one to the bit: weights, optimizer, metrics without times,
samples, and the names of all its files. Exit code 1 if anything differs.
"""

import random
import signal
import sys
import time
import uuid
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lib")]

import psutil  # noqa: E402
from house import House, kill_all  # noqa: E402
from trials import Start, Trial, prepared_house  # noqa: E402

from pipeline.common.tables import aligned  # noqa: E402

RL_HOLDS = {
    "sync": r"phase ^sync$",  # the native engine shares the actor's weights: too short to be met otherwise
    "save: first moment": r"os.mkdir \.iter_\d+\.writing$",
    "save: before a file": r"open \.distcp$",
    "save: before the sums": r"open checksums\.json",
    "save: before the rename": r"os.rename \.iter_\d+\.writing$",
    "save: before latest": r"os.rename latest_checkpointed_iteration\.txt$",
    "save: before the old one goes": r"shutil.rmtree /iter_\d+$",
}
SFT_HOLDS = {
    "save: first moment": r"os.mkdir /step_\d+$",
    "save: before latest": r"os.rename /latest$",
    "save: before the old one goes": r"shutil.rmtree /step_\d+$",
    "model: first moment": r"os.mkdir \.hf\.writing$",
    "model: before the tokenizer": r"open \.hf\.writing/tokenizer\.json$",
    "model: before the rename": r"os.rename \.hf\.writing$",
}
VICTIMS = ("rank 0", "rank 1", "all", "launcher")
PER_RUN = 10
"""Kills of one run."""
RL = ["rl.steps=12", "rl.save_every=1", "rl.keep_checkpoints=2"]


@dataclass(frozen=True)
class Kind:
    """A training that is killed."""

    words: list[str]
    stage: str = "rl"
    before: tuple[str, ...] = ("preprocess", "convert")
    phases: tuple[str, ...] = ("join", "generate", "grade", "logprobs", "update", "save")
    holds: dict[str, str] | None = None
    straight: str = "straight"
    """The undisturbed run."""
    undisturbed: list[str] | None = None
    """Its settings, where they are others."""


KINDS = {
    "rl": Kind(RL),
    "async": Kind([*RL, "rl.async_save=true"], phases=(), undisturbed=RL, holds=dict([*RL_HOLDS.items()][1:])),
    "partial": Kind([*RL, "rollout.partial_tokens=6"], straight="straight-partial"),
    "sft": Kind(
        ["sft.save_every=2"], "sft", ("preprocess",), ("join", "update", "save"), SFT_HOLDS, straight="straight-sft"
    ),
}


@dataclass(frozen=True)
class Kill:
    """One kill: where, who, and whether steps are left to the run before it."""

    moment: str
    victim: str
    later: bool


def plan(name: str) -> list[list[Kill]]:
    """The kills of each run of a kind, in a fixed random order; those that end the last save come last."""
    kind = KINDS[name]
    triples = [
        (moment, victim, number)
        for number, moment in enumerate([*kind.phases, *(kind.holds or RL_HOLDS)])
        for victim in (f"rank {number % 2}", "all", "launcher")
    ]
    random.Random(name).shuffle(triples)
    kills = [Kill(moment, victim, (number + order) % 2 == 1) for order, (moment, victim, number) in enumerate(triples)]
    runs = [kills[start : start + PER_RUN] for start in range(0, len(kills), PER_RUN)]
    return [sorted(run, key=lambda kill: kill.moment.startswith("model")) for run in runs]


def prepared(folder: Path, name: str) -> House:
    """The small run with its first stages done, and an undisturbed run to compare the kind `name` with."""
    house, kind = prepared_house(folder), KINDS[name]
    if not house.root(kind.straight).exists():
        house.copy(kind.straight, *kind.before)
        result = house.run(kind.stage, *(kind.undisturbed or kind.words), name=kind.straight)
        assert result.code == 0, result.err
    return house


def main(folder: str, name: str, part: str = ":") -> int:
    first, last = (int(bound) if bound else None for bound in part.split(":"))
    hit: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    kind = KINDS[name]
    house = prepared(Path(folder).resolve(), name)
    try:
        for number, kills in list(enumerate(plan(name)))[first:last]:
            trial = Trial(house, f"{name}-{number}-{uuid.uuid4().hex[:6]}", kind.stage, kind.words, *kind.before)
            wrong += disturbed(trial, kind, kills, hit)
    finally:
        house.close()
    moments = dict.fromkeys(moment for moment, _ in hit)
    table = [(moment, *(str(hit[moment, victim]) for victim in VICTIMS)) for moment in moments]
    print("\n".join(aligned(("moment", *VICTIMS), table)))
    print(f"{sum(hit.values())} kills, {len(wrong)} things wrong")
    return 1 if wrong else 0


def disturbed(trial: Trial, kind: Kind, kills: list[Kill], hit: Counter[tuple[str, str]]) -> list[str]:
    """Kills one run and lets it end; returns in what it differs from the undisturbed run, and counts the kills."""
    for kill in kills:
        began = time.monotonic()
        at = (kind.holds or RL_HOLDS).get(kill.moment)
        start = trial.start(at=at)
        reached = trial.reach(start, None if at else kill.moment, kill.later)
        if reached:
            strike(trial, start, kill)
        elif start.process.returncode:
            _, err = start.process.communicate()
            trial.wrong.append(f"{kill}: the run ended with {start.process.returncode} before: {err[-2000:]}")
        hit[kill.moment, kill.victim] += reached
        said = "killed" if reached else "not reached"
        print(f"{trial.name}: {kill.moment}, {kill.victim}: {said} ({time.monotonic() - began:.0f} s)", flush=True)
    trial.finish(trial.house.root(kind.straight))
    print(f"{trial.name}:", *(trial.wrong or ["equal to the undisturbed run"]), sep="\n  ", flush=True)
    return trial.wrong


def strike(trial: Trial, start: Start, kill: Kill) -> None:
    """Kills, and waits for the end of the run."""
    if kill.victim == "all":
        kill_all(start.process)
    elif kill.victim == "launcher":
        start.process.kill()
    elif (victim := trial.rank(start, int(kill.victim[-1]))) is not None:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    code, _, _ = trial.end(start, str(kill))
    if kill.victim.startswith("rank") and code != 1:
        trial.wrong.append(f"{kill}: exit code {code}, not 1")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main(*sys.argv[1:]))
