"""Finds the rank that stopped answering, says which and where, and ends it, so that its peers do not wait.

The launcher of each node looks at the files that the ranks of all nodes rewrite (`pipeline.common.heartbeat`). It ends
ranks of its own node alone; torchrun then starts all ranks again, or ends them. No clocks are compared: what counts is how long
this node has seen a file unchanged.
"""

import math
import os
import re
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.common import heartbeat
from pipeline.common.files import write_json
from pipeline.common.processes import descendants
from pipeline.run import links

NOTICE = "notice"
"""Start of the names of files in the outcome folder that say why a run was ended."""
FRAMES = 6
"""Lines shown of a stack."""
COLLECTIVES = "nccl_rank"
"""Start of the names of the pipes that ask NCCL for its last collectives, and of the files that hold them."""
LINKS = "links"
"""Start of the names of files in the outcome folder that hold which addresses do not answer a node."""
DUMP_SECONDS = 5.0
STACK_SECONDS = 2.0
"""Longest wait for the stacks of living ranks."""


@dataclass
class Sign:
    """What one rank last said, and when this node first saw that."""

    record: dict[str, Any]
    seen: float

    def silent_s(self, now: float) -> float:
        return now - self.seen

    def quiet_s(self, now: float) -> float:
        """Seconds since something moved in the rank's phase."""
        return float(self.record["quiet_s"]) + self.silent_s(now)

    def is_stuck(self, now: float, most_s: float = math.inf) -> bool:
        """Whether its phase has not moved for longer than it may, or for `most_s`."""
        allowed = self.record["allowed_s"]
        return allowed is not None and self.quiet_s(now) > min(allowed, most_s)

    def place(self) -> str:
        """`update of step 3`."""
        phase, step = self.record["phase"] or "start", self.record["step"]
        return phase if step is None else f"{phase} of step {step}" if phase != heartbeat.STEP else f"step {step}"


class Watchdog:
    """Watches the ranks of a job from one node. `look` is called again and again; it ends what must be ended."""

    def __init__(
        self,
        ranks: range,
        world: int,
        limit_s: float,
        *,
        say: Callable[[str], None] = print,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`ranks` are this node's, of `world` in all."""
        self.ranks, self.world, self.limit_s = ranks, world, limit_s
        self.say, self.clock = say, clock
        self.interval = min(5.0, limit_s / 20)
        self.outcomes = self.logs = self.spare = self.notice = self.seen_links = Path()
        self.signs: dict[int, Sign] = {}
        self.pids: dict[int, int] = {}
        self.stale: dict[int, dict[str, Any] | None] = {}
        """The last records of ranks that may be dead."""
        self.verdict = ""
        """Why ranks were ended; empty again once torchrun has started them again."""
        self.ended = 0.0
        """When that was, by the machine's clock."""
        self.is_over = False
        """Whether the agent was ended, so that no rank starts again. What one that has just started reports changes nothing."""
        self.started = self.last = clock()

    def begin(self, outcomes: Path, logs: Path, spare: Path) -> None:
        """The folders of this start, `spare` local to this node; what earlier starts left there of this node is deleted."""
        self.outcomes, self.logs, self.spare = outcomes, logs, spare
        self.notice = outcomes / f"{NOTICE}{self.ranks.start}.json"
        self.notice.unlink(missing_ok=True)
        self.seen_links = outcomes / f"{LINKS}{self.ranks.start}.json"
        self.seen_links.unlink(missing_ok=True)
        for rank in self.ranks:
            heartbeat.heart_file(outcomes, rank).unlink(missing_ok=True)
        self._forget_others()
        self.is_over = False
        self.started = self.last = self.clock()

    def _forget_others(self) -> None:
        """What ranks of other nodes have said so far does not count: they may be long dead. Those that live report again."""
        others = [rank for rank in range(self.world) if rank not in self.ranks]
        for rank in others:
            self.signs.pop(rank, None)
            self.stale[rank] = heartbeat.read(heartbeat.heart_file(self.outcomes, rank))

    def look(self, agent: int) -> None:
        """`agent` is the process whose descendants the ranks of this node are."""
        now = self.clock()
        if self.is_over or now - self.last < self.interval:
            return
        pause, self.last = now - self.last - self.interval, now
        if pause > self.limit_s / 4:  # this process itself was stopped: nobody else is to blame
            self.started += pause
            for sign in self.signs.values():
                sign.seen += pause
        self._read(now)
        self._look_at_links(agent, now)
        blamed = self._blamed(now)
        if not set(blamed) & set(self.ranks):
            blamed = self._blamed(now - self.limit_s / 2)  # first it is for the other node to end its rank
        if blamed:
            self._end(sorted(blamed), agent, now)

    def _read(self, now: float) -> None:
        for rank in range(self.world):
            record = heartbeat.read(heartbeat.heart_file(self.outcomes, rank))
            old = self.signs.get(rank)
            if record is None or record == self.stale.get(rank) or (old is not None and record == old.record):
                continue
            if self.pids.setdefault(rank, record["pid"]) != record["pid"]:  # torchrun has started the ranks again
                self.pids[rank] = record["pid"]
                self.verdict = ""
                self.notice.unlink(missing_ok=True)
            self.signs[rank] = Sign(record, now)
        for rank in [rank for rank in self.ranks if rank in self.signs]:
            if not psutil.pid_exists(self.signs[rank].record["pid"]):
                del self.signs[rank]  # torchrun deals with a rank that ended; the others begin again with it, if at all
                self.started = now
                self._forget_others()

    def _look_at_links(self, agent: int, now: float) -> None:
        """While somebody waits for long, writes down which addresses do not answer this node: of two nodes with a cut link
        between them, only the one that has sent something knows."""
        waits = any(sign.is_stuck(now, self.limit_s / 2) for sign in self.signs.values())
        if waits and (found := links.unanswered([agent, *(process.pid for process in descendants(agent))])):
            with suppress(OSError):
                write_json(
                    self.seen_links, {"time": time.time(), "addresses": heartbeat.own_addresses(), "silent": found}
                )
        else:
            self.seen_links.unlink(missing_ok=True)

    def _silent_links(self) -> dict[str, int]:
        """Addresses that do not answer this node, or whose node has no answer from this one, with the repetitions in vain."""
        found: dict[str, int] = {}
        own = set(heartbeat.own_addresses())
        for file in self.outcomes.glob(f"{LINKS}*.json"):
            seen = heartbeat.read(file)
            if seen is None:
                continue
            if file == self.seen_links:
                found |= seen["silent"]
            elif mine := own & seen["silent"].keys():
                found |= {seen["addresses"][0]: seen["silent"][min(mine)]} if seen["addresses"] else {}
        return found

    def _blamed(self, now: float) -> list[int]:
        """The ranks that hold up the run; empty while none has exceeded its limit."""
        watched = {rank: sign for rank, sign in self.signs.items() if sign.record["phase"] != heartbeat.DONE}
        most_s = self.limit_s if self._silent_links() else math.inf  # a phase that may be long does not get on either
        stuck = [rank for rank, sign in watched.items() if sign.is_stuck(now, most_s)]
        absent = [rank for rank in range(self.world) if rank not in self.signs]
        waited = now - self.started  # since a rank ended, too: it may start again
        if set(self.ranks) <= set(
            absent
        ):  # the agent waits for the other nodes, with a limit of its own, or starts ranks
            return list(self.ranks) if stuck and waited > 2 * self.limit_s else []
        silent = [rank for rank, sign in watched.items() if sign.silent_s(now) > self.limit_s]
        if silent or not stuck:
            return silent
        hushed = [rank for rank, sign in watched.items() if sign.silent_s(now) > self.limit_s / 2]
        if hushed:  # the others wait for it, and came to their limit a moment earlier
            return hushed
        if absent:
            return absent if waited > self.limit_s else []
        fewest = min(sign.record["moves"] for sign in watched.values())
        return [rank for rank, sign in watched.items() if sign.record["moves"] == fewest]

    def _end(self, blamed: list[int], agent: int, now: float) -> None:
        below = descendants(agent)
        self._dump_collectives()
        stacks = self._stacks()
        self.verdict, self.ended = self._text(blamed, stacks, now), time.time()
        with suppress(OSError):
            write_json(self.notice, {"time": time.time(), "message": self.verdict})
        self.say(self.verdict.partition("\n")[0])
        pids = {process.pid for process in below}
        here = {rank: self.signs[rank].record["pid"] for rank in self.ranks if rank in self.signs}
        own = {rank: pid for rank, pid in here.items() if rank in blamed}
        # If ranks of other nodes are to blame, those of this node wait in vain. The agent decides whether to start again;
        # without ranks it waits in vain itself.
        victims = [pid for pid in (own or here).values() if pid in pids]
        if not victims and not own:
            victims, self.is_over = [*pids, agent], True
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.signs = {rank: sign for rank, sign in self.signs.items() if rank not in blamed}
        self.started = now

    def _dump_collectives(self) -> None:
        """Asks NCCL of the ranks here to write its last collectives into the logs."""
        pipes = list(self.spare.glob(f"{COLLECTIVES}*.pipe"))
        for pipe in pipes:
            with suppress(OSError):
                handle = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                os.write(handle, b"dump")
                os.close(handle)
        deadline = time.monotonic() + DUMP_SECONDS
        while len(list(self.logs.glob(f"{COLLECTIVES}*"))) < len(pipes) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _stacks(self) -> dict[int, list[str]]:
        """The innermost frames of this node's ranks that answer, the latest call first. The files have whole stacks."""
        files = {rank: heartbeat.stack_file(self.logs, rank) for rank in self.ranks if rank in self.signs}
        before = {rank: _size(file) for rank, file in files.items()}
        for rank in files:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(self.signs[rank].record["pid"], heartbeat.STACK_SIGNAL)
        deadline = time.monotonic() + STACK_SECONDS
        while any(_size(file) == before[rank] for rank, file in files.items()) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.05)  # for the rest of the last one
        return {rank: _frames(file, before[rank]) for rank, file in files.items() if _size(file) > before[rank]}

    def _text(self, blamed: list[int], stacks: dict[int, list[str]], now: float) -> str:
        lines = [*self._lost_links(self._silent_links(), now), self._headline(blamed, now)]
        hosts = {self.signs[rank].record["host"] for rank in blamed if rank in self.signs}
        if len(lines) == 1 and len(hosts) > 1:
            lines.append("All wait for each other: the network between their hosts is cut, or a collective hangs.")
        if (reason := self._reason(blamed[0], stacks)) is not None:
            lines.append(reason)
        waiting = [rank for rank in sorted(self.signs) if rank not in blamed]
        places = Counter(self.signs[rank].place() for rank in waiting)
        for place, count in places.most_common(3):
            first = next(rank for rank in waiting if self.signs[rank].place() == place)
            who = f"Rank {first}" if count == 1 else f"Rank {first} and {count - 1} more"
            lines.append(f"{who}: in {place} for {_time(self.signs[first].quiet_s(now))}.")
        for rank in [rank for rank in (*blamed, *waiting) if rank in stacks][:2]:
            lines += [f"Rank {rank} was here, the latest call first:", *stacks[rank]]
        lines.append(
            f"Whole stacks: {self.logs}/rank*.stack. The limit is cluster.timeout_minutes={self.limit_s / 60:g}."
        )
        return "\n".join(lines)

    def _lost_links(self, silent_links: dict[str, int], now: float) -> list[str]:
        """Which ranks do not answer over the network though they still report; a rank that does not is in the headline."""
        lines = []
        for address, repeats in silent_links.items():
            far = [rank for rank, sign in self.signs.items() if address in sign.record.get("addresses", ())]
            if any(rank in self.ranks or self.signs[rank].silent_s(now) > self.limit_s / 2 for rank in far):
                continue
            vain = f"What was sent there was repeated {repeats} times in vain."
            if not far:
                lines.append(f"{address} does not answer over the network. {vain}")
                continue
            sign = self.signs[min(far)]
            who = f"Rank {far[0]} on" if len(far) == 1 else f"Ranks {_listed(sorted(far))} on"
            lines.append(
                f"{who} {sign.record['host']} ({address}): no answer over the network, last in {sign.place()}. {vain} The"
                f" link between {socket.gethostname()} and {sign.record['host']} is cut."
            )
        return lines

    def _reason(self, rank: int, stacks: dict[int, list[str]]) -> str | None:
        """What is known of a process of this node that has no stack to show."""
        if rank in stacks or rank not in self.ranks or rank not in self.signs:
            return None
        with suppress(psutil.NoSuchProcess):
            status = psutil.Process(self.signs[rank].record["pid"]).status()
            if status == psutil.STATUS_STOPPED:
                return "Its process is stopped (SIGSTOP, or a debugger)."
            if status == psutil.STATUS_DISK_SLEEP:
                return "It does not answer signals either: it waits in the kernel, often for a disk or a device."
        return f"It wrote no stack within {STACK_SECONDS:g} s: its machine has too much to do, or stops it again and again."

    def _headline(self, blamed: list[int], now: float) -> str:
        first = blamed[0]
        who = f"Rank {first}" if len(blamed) == 1 else f"Ranks {_listed(blamed)}"
        if first not in self.signs:
            return f"{who}: not started within {_time(now - self.started)}, and the others wait."
        sign = self.signs[first]
        if len(blamed) == 1:
            who += f" on {sign.record['host']} (process {sign.record['pid']})"
        if sign.silent_s(now) > self.limit_s / 2:
            lost = "" if first in self.ranks else " Its machine or the link to it is lost."
            return f"{who}: no sign of life for {_time(sign.silent_s(now))}, last in {sign.place()}.{lost}"
        return f"{who}: no progress for {_time(sign.quiet_s(now))} in {sign.place()}."


def _listed(ranks: list[int]) -> str:
    more = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return ", ".join(map(str, ranks[:8])) + more


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _frames(file: Path, start: int) -> list[str]:
    """The first frames of the main thread in a dump of `faulthandler` that begins at byte `start`."""
    with open(file, "rb") as opened:
        opened.seek(start)
        text = opened.read().decode("utf-8", "replace")
    stack = text.rpartition("Current thread")[2].partition("\n\n")[0]
    return re.findall(r'^  File ".*', stack, re.MULTILINE)[:FRAMES]
