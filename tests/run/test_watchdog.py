"""Which rank the watchdog blames, and what it says. The ranks are small processes that answer as a rank does; their records
and the clock are made up. Real ranks are in test_supervise.py."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from cli import ROOT

from pipeline.common import heartbeat
from pipeline.run.watchdog import NOTICE, Watchdog

RANK = """
import sys, time
from pathlib import Path
from pipeline.common import heartbeat
heartbeat.start(Path(sys.argv[1]), Path(sys.argv[1]), int(sys.argv[2]), 1e9)
print(flush=True)
def waits_for_ever():
    time.sleep(60)
waits_for_ever()
"""
LIMIT = 100.0


class Ranks:
    """Two ranks that a watchdog looks at; `here` of them are on its node."""

    def __init__(self, folder: Path, here: int = 2) -> None:
        self.folder, self.now, self.said = folder, 0.0, []
        self.processes, self.agent = [], os.getpid()
        self.watchdog = Watchdog(range(here), 2, LIMIT, say=self.said.append, clock=lambda: self.now)
        self.watchdog.begin(folder, folder, folder)

    def start(self, rank: int) -> None:
        command = [sys.executable, "-c", RANK, str(self.folder), str(rank)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
        process.stdout.readline()
        self.processes.append(process)

    def report(self, rank: int, phase: str | None, *, moves: int, quiet_s: float = 0.0, **more) -> None:
        """Overwrites the record that the process `rank` made."""
        allowed = None if phase is None else LIMIT
        record = {"rank": rank, "host": "here", "pid": self.processes[rank].pid, "phase": phase, "step": 3}
        record |= {"moves": moves, "beat": self.now, "quiet_s": quiet_s, "allowed_s": allowed} | more
        heartbeat.heart_file(self.folder, rank).write_text(json.dumps(record))

    def look(self, now: float) -> str:
        self.now = now
        self.watchdog.look(self.agent)
        return self.watchdog.verdict

    def is_alive(self, rank: int) -> bool:
        return psutil.Process(self.processes[rank].pid).status() != psutil.STATUS_ZOMBIE


@pytest.fixture
def ranks(tmp_path):
    ranks = Ranks(tmp_path)
    for rank in (0, 1):
        ranks.start(rank)
    yield ranks
    for process in ranks.processes:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.fixture
def apart(tmp_path, monkeypatch):
    """Rank 0 is on this node, 10.0.0.1, and rank 1 on another, 10.0.0.2."""
    monkeypatch.setattr(heartbeat, "own_addresses", lambda: ["10.0.0.1"])
    ranks = Ranks(tmp_path, here=1)
    for rank in (0, 1):
        ranks.start(rank)
    ranks.processes[1].send_signal(signal.SIGSTOP)  # what it reports is made up alone
    yield ranks
    for process in ranks.processes:
        process.kill()
        process.wait()
        process.stdout.close()


FAR = {"host": "far", "addresses": ["10.0.0.2"]}


def test_a_lost_host_is_named_and_the_agent_may_start_the_ranks_here_again(apart):
    apart.report(1, "update", moves=6, **FAR)
    for now in range(5, 151, 5):
        apart.report(0, "update", moves=6, quiet_s=min(now, 99))
        assert not apart.look(now)
    first, *_ = apart.look(156).splitlines()
    assert first.startswith("Rank 1 on far (process ")
    assert first.endswith("no sign of life for 3 min, last in update of step 3. Its machine or the link to it is lost.")
    assert apart.processes[0].wait(timeout=30) == -signal.SIGKILL
    assert apart.is_alive(1)  # it is another node's
    for now in range(160, 356, 5):  # the agent, this process, waits for the other node, which has a limit of its own
        apart.look(now)
    assert (apart.folder / f"{NOTICE}0.json").exists()


def test_what_an_earlier_run_left_of_other_nodes_does_not_count(apart):
    apart.report(1, "update", moves=6, quiet_s=99, **FAR)
    apart.watchdog.begin(apart.folder, apart.folder, apart.folder)
    assert not any(apart.look(now) for now in range(5, 405, 5))  # the ranks here wait as long for the other node's
    agent = subprocess.Popen(["sleep", "60"])
    apart.agent = agent.pid
    for now in range(405, 530, 5):
        apart.report(1, heartbeat.JOIN, moves=1, quiet_s=now - 404, **FAR)
        apart.look(now)
    assert apart.watchdog.verdict.startswith("Rank 0: not started within 8 min, and the others wait.")
    assert agent.wait(10) == -signal.SIGKILL


def test_a_cut_link_is_named_within_the_limit_of_a_short_phase_though_only_the_other_node_has_sent_something(apart):
    seen = {"addresses": ["10.0.0.2"], "silent": {"10.0.0.1": 7}, "time": 0}
    (apart.folder / "links1.json").write_text(json.dumps(seen))
    for now in range(5, 106, 5):
        apart.report(0, "save", moves=6, quiet_s=now, allowed_s=3 * LIMIT)
        apart.report(1, "save", moves=6, quiet_s=now, allowed_s=3 * LIMIT, **FAR)
        apart.look(now)
    first, second, *_ = apart.watchdog.verdict.splitlines()
    assert first.startswith(
        "Rank 1 on far (10.0.0.2): no answer over the network, last in save of step 3. What was sent"
    )
    assert "7 times in vain" in first
    assert second.startswith("Ranks 0, 1: no progress for 10")


def test_ranks_that_all_wait_at_one_place_are_not_blamed_without_a_word_about_the_network(apart):
    for now in range(5, 106, 5):
        apart.report(0, "update", moves=6, quiet_s=now)
        apart.report(1, "update", moves=6, quiet_s=now, **FAR)
        apart.look(now)
    assert "the network between their hosts is cut, or a collective hangs" in apart.watchdog.verdict.splitlines()[1]


def beat(ranks, until, **phases):
    """Both ranks report until a moment, as time passes."""
    while ranks.now < until:
        ranks.report(0, "update", moves=7, quiet_s=ranks.now)
        if phases.get("both", True):
            ranks.report(1, "generate", moves=6, quiet_s=ranks.now)
        assert not ranks.look(ranks.now + 5)


def test_a_stopped_rank_is_named_with_its_phase_though_the_other_reached_its_limit_first(ranks):
    ranks.report(1, "generate", moves=6)
    ranks.processes[1].send_signal(signal.SIGSTOP)
    ranks.look(5)
    beat(ranks, 95, both=False)
    ranks.report(0, "update", moves=7, quiet_s=101)
    verdict = ranks.look(101)
    first, second, *rest = verdict.splitlines()
    assert first.startswith("Rank 1 on here (process ")
    assert first.endswith("no sign of life for 96 s, last in generate of step 3.")
    assert second == "Its process is stopped (SIGSTOP, or a debugger)."
    assert "Rank 0: in update of step 3 for 101 s." in rest
    assert any("in waits_for_ever" in line for line in rest)
    assert ranks.said == [first]
    assert ranks.processes[1].wait(timeout=30) == -signal.SIGKILL
    assert ranks.is_alive(0)  # torchrun sees to it
    (notice,) = ranks.folder.glob(f"{NOTICE}*.json")
    assert json.loads(notice.read_text())["message"] == verdict


def test_of_living_ranks_the_one_that_is_behind_is_named_with_its_stack(ranks):
    beat(ranks, 100)
    ranks.report(0, "update", moves=7, quiet_s=101)
    ranks.report(1, "generate", moves=6, quiet_s=101)
    first, second, third, *_ = ranks.look(105).splitlines()
    assert "no progress for 101 s in generate of step 3" in first
    assert (first[:6], second) == ("Rank 1", "Rank 0: in update of step 3 for 101 s.")
    assert third == "Rank 1 was here, the latest call first:"
    assert "in waits_for_ever" in ranks.watchdog.verdict
    assert ranks.processes[1].wait(timeout=30) == -signal.SIGKILL


def test_a_rank_that_only_wrote_no_stack_is_not_said_to_wait_in_the_kernel(ranks, monkeypatch):
    """On a machine with too much to do a healthy process takes longer than that."""
    monkeypatch.setattr(Watchdog, "_stacks", lambda self: {})
    beat(ranks, 100)
    ranks.report(0, "update", moves=7, quiet_s=101)
    ranks.report(1, "generate", moves=6, quiet_s=101)
    second = ranks.look(105).splitlines()[1]
    assert second.startswith("It wrote no stack within 2 s: its machine has too much to do")


def test_nobody_is_blamed_for_what_has_no_limit_or_while_the_launcher_itself_was_stopped(ranks):
    for now in range(5, 900, 5):
        ranks.report(0, None, moves=0, quiet_s=now)
        ranks.report(1, heartbeat.DONE, moves=9, allowed_s=None)
        assert not ranks.look(now)
    ranks.report(1, "save", moves=10)
    ranks.look(900)
    assert not ranks.look(5000)  # nobody looked for more than an hour, and no rank reported
    verdicts = [ranks.look(5000 + passed) for passed in range(5, 111, 5)]
    assert not any(verdicts[:18])  # within the limit
    assert next(filter(None, verdicts)).startswith("Rank 0 on here")


def test_a_rank_that_torchrun_started_again_is_not_blamed_for_the_one_before(ranks):
    ranks.report(0, "update", moves=1)
    ranks.report(1, "update", moves=1)
    ranks.look(5)
    for now in range(10, 106, 5):
        ranks.report(0, "update", moves=1)
        ranks.look(now)
    assert ranks.look(110).startswith("Rank 1 ")
    ranks.start(1)
    ranks.processes[1] = ranks.processes.pop()
    ranks.report(0, "update", moves=2)
    ranks.report(1, "update", moves=2)
    assert not ranks.look(115)
    assert not list(ranks.folder.glob(f"{NOTICE}*.json"))


def test_a_missing_rank_is_named_when_the_others_wait_for_it(tmp_path):
    ranks = Ranks(tmp_path)
    ranks.start(0)
    try:
        ranks.report(0, heartbeat.JOIN, moves=1, step=None)
        for now in range(5, 106, 5):
            ranks.report(0, heartbeat.JOIN, moves=1, step=None, quiet_s=now - 5)
            ranks.look(now)
        ranks.report(0, heartbeat.JOIN, moves=1, step=None, quiet_s=101)
        agent = subprocess.Popen(["sleep", "60"])
        ranks.now = 110
        ranks.watchdog.look(agent.pid)
        assert ranks.watchdog.verdict.startswith("Rank 1: not started within 110 s, and the others wait.")
        assert agent.wait(10) == -signal.SIGKILL
    finally:
        for process in ranks.processes:
            process.kill()
            process.wait()
            process.stdout.close()


def test_limits_by_phase(tmp_path):
    heart = heartbeat.Heart(tmp_path / "heart", 0, 600.0)
    assert heart.allowed_s() is None  # reading weights takes its time
    heart.enter(heartbeat.JOIN)
    assert heart.allowed_s() == 600
    heart.step(4)
    heart.enter("update")
    assert heart.allowed_s() == 1800  # the first step of this start also compiles
    heart.step(5)
    heart.enter("update")
    assert heart.allowed_s() == 600
    heart.enter("save")
    assert heart.allowed_s() == 1800
    record = heartbeat.read(tmp_path / "heart")
    assert (record["phase"], record["step"], record["pid"]) == ("save", 5, os.getpid())
    assert (tmp_path / "heart").stat().st_size == heartbeat.RECORD_BYTES
    heart.end()
