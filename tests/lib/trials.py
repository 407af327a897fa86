"""A small run that is disturbed at chosen moments, and must end like an undisturbed one.

A rank waits at a moment that `hold.py` recognises: a file operation, or the beginning of a phase. Meanwhile a test kills or
stops processes, or fills the disk. Afterwards nothing of the start may be left: no process, no open port, no file.
"""

import os
import re
import shutil
import subprocess
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import torch
from cli import ROOT
from house import House, family, kill_all, ranks_of, rows
from leftovers import command_line, open_ports, tagged

from pipeline.common import heartbeat

PATIENCE_S = 900
"""For a start to come to its moment, and for a run to end."""
END_S = 60
"""For processes that were killed to be gone: on a busy machine each of their threads waits for its turn to end."""
HARMLESS = re.compile(r"(^|/)(logs|outcome|tensorboard)(/|$)|\.lock$")
"""Files whose number depends on how often a run was started."""


@dataclass
class Start:
    """A command that runs and has come to its moment."""

    process: "subprocess.Popen[str]"
    tag: str
    """An environment variable's value that all its processes share."""
    mark: Path
    """The rank waits as long as this file is there."""
    ports: set[int] = field(default_factory=set)
    """On which its processes listen."""


class Trial:
    """One run that is disturbed again and again. `wrong` collects what was not as it must be."""

    def __init__(self, house: House, name: str, stage: str, words: list[str], *before: str):
        """`before`: finished stages of the prepared run to start from."""
        self.house, self.name, self.stage, self.words = house, name, stage, words
        house.copy(name, *before)
        self.root = house.root(name)
        self.temporary = house.folder / f"tmp-{name}"
        self.temporary.mkdir()
        self.launchers: set[int] = set()
        self.wrong: list[str] = []
        hook = house.folder / "hold"
        hook.mkdir(exist_ok=True)
        shutil.copy(Path(__file__).with_name("hold.py"), hook / "sitecustomize.py")

    def start(self, *more: str, at: str | None = None, rank: int | None = None, skip: int = 0) -> Start:
        """Starts the command. `at`: where a rank, or that rank alone, is to wait, when it comes there for the `skip + 1`st
        time (see hold.py)."""
        tag, mark = uuid.uuid4().hex, self.temporary.with_name(f"mark-{self.name}")
        mark.unlink(missing_ok=True)
        env = {"KILL_TAG": tag, "TMPDIR": str(self.temporary)}
        if at is not None:
            env |= {"HOLD_AT": at, "HOLD_MARK": str(mark), "HOLD_SKIP": str(skip)}
            env |= {} if rank is None else {"HOLD_RANK": str(rank)}
            env["PYTHONPATH"] = f"{self.house.folder / 'hold'}{os.pathsep}{ROOT}"
        for file in (self.root / self.stage / "outcome").glob("*.heart"):
            file.unlink()
        process = self.house.start(self.stage, *self.words, *more, name=self.name, env=env)
        self.launchers.add(process.pid)
        return Start(process, tag, mark)

    def reach(self, start: Start, phase: str | None = None, later: bool = False) -> bool:
        """Waits until the start has come to its moment: a rank waits, or rank 0 is in `phase`, and if `later` in a later step
        than its first. False if it ended before."""
        deadline, first = time.monotonic() + PATIENCE_S, None
        while not start.mark.exists():
            if start.process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                raise AssertionError(f"{self.name}: not reached within {PATIENCE_S} s")
            record = heartbeat.read(heartbeat.heart_file(self.root / self.stage / "outcome", 0))
            if record is not None and phase is not None:
                first = record["step"] if first is None else first
                late = not later or phase == heartbeat.JOIN or (first is not None and record["step"] > first)
                if record["phase"] == phase and late:
                    break
            time.sleep(0.001)
        start.ports = listening([one.pid for one in family(start.process)])
        return True

    def rank(self, start: Start, number: int) -> psutil.Process | None:
        """The process of a rank, None if it has ended."""
        with suppress(psutil.NoSuchProcess):
            return next(one for one in ranks_of(start.process, self.stage) if one.environ()["RANK"] == str(number))
        return None

    def close(self) -> None:
        """Deletes what the run holds."""
        shutil.rmtree(self.root, ignore_errors=True)
        shutil.rmtree(self.temporary, ignore_errors=True)

    def end(self, start: Start, what: str, timeout_s: float = PATIENCE_S) -> tuple[int | None, str, str]:
        """Waits for the start's end and looks for what it left. Returns exit code, output and errors."""
        try:
            out, err = start.process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.wrong.append(f"{what}: the run does not end within {timeout_s:g} s")
            kill_all(start.process)
            out, err = start.process.communicate()
        self.look_for_what_is_left(start, what)
        return start.process.returncode, out, err

    def look_for_what_is_left(self, start: Start, what: str) -> None:
        """Notes processes of a start that live, and kills them, and ports that are open."""
        deadline = time.monotonic() + END_S
        while ((left := tagged("KILL_TAG", start.tag)) or still_open(start)) and time.monotonic() < deadline:
            time.sleep(0.1)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                words = " ".join(command_line(process.pid))[:200]
                self.wrong.append(f"{what}: left behind: {process.pid} ({process.status()}) {words}")
                process.kill()
        if still := still_open(start):
            self.wrong.append(f"{what}: ports are open still: {still}")

    def finish(self, straight: Path) -> None:
        """Runs to the end and compares with the undisturbed run."""
        start = self.start()
        _, err = start.process.communicate(timeout=PATIENCE_S)
        if start.process.returncode:
            self.wrong.append(f"the last start ended with {start.process.returncode}: {err[-2000:]}")
        self.wrong += differences(self.root, straight, self.stage)
        self.wrong += [
            f"left in the temporary folder: {path}"
            for path in self.temporary.iterdir()
            if "torchinductor" not in path.name
        ]
        for owner in Path("/dev/shm").glob("etr-*/owner"):
            with suppress(OSError, ValueError):
                if int(owner.read_text()) in self.launchers:
                    self.wrong.append(f"left in memory: {owner.parent}")


def prepared_house(folder: Path) -> House:
    """The run `micro` in `folder` with preprocess, warm-up and convert done; it is made unless the folder is there."""
    is_new = not folder.exists()
    house = House(folder)
    if is_new:
        for stage in ("preprocess", "sft", "convert"):
            result = house.run(stage)
            assert result.code == 0, result.err
    return house


def listening(pids: list[int]) -> set[int]:
    """The ports on which some processes listen."""
    return {port for port, owners in open_ports().items() if owners & set(pids)}


def still_open(start: Start) -> dict[int, set[int]]:
    """Ports of a start that are open, and who holds them, unless another program has taken them since."""
    ours, found = {process.pid for process in tagged("KILL_TAG", start.tag)}, open_ports()
    return {port: found[port] for port in start.ports & found.keys() if not found[port] or found[port] & ours}


def differences(root: Path, straight: Path, stage: str) -> list[str]:
    """What differs between a run that was disturbed and the undisturbed one."""
    found = []
    one, other = (
        {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} for folder in (root, straight)
    )
    found += [f"a file too many: {name}" for name in sorted(one - other) if not HARMLESS.search(name)]
    found += [f"a file is missing: {name}" for name in sorted(other - one) if not HARMLESS.search(name)]
    for name in sorted(one & other):
        path, twin = root / name, straight / name
        if not name.startswith((f"{stage}/", "checkpoints/", "exports/", "samples", "metrics.jsonl")):
            continue
        if HARMLESS.search(name):
            continue
        if path.suffix == ".jsonl":
            same = rows(path) == rows(twin)
        elif path.suffix == ".pt":
            same = _same(*(torch.load(file, weights_only=False) for file in (path, twin)), (str(root), str(straight)))
        else:
            same = path.suffix not in (".distcp", ".safetensors") or path.read_bytes() == twin.read_bytes()
        if not same:
            found.append(f"{name} differs")
    return found


def _same(one: Any, other: Any, roots: tuple[str, str]) -> bool:
    """Whether two loaded files are equal, apart from paths inside the two runs' own folders."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.equal(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(value, other[key], roots) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(_same(*pair, roots) for pair in zip(one, other, strict=True))
    if isinstance(one, str) and isinstance(other, str):
        return one.replace(*roots) == other
    return type(one) is type(other) and (one == other or hasattr(one, "__dict__"))
