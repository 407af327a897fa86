"""Real torchrun processes: exit codes, the failing rank's error, Ctrl-C, orphans, two nodes on one machine.

Each test starts `supervisor.py`, which runs `worker.py` as the cli would, in a process that can be sent signals.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from cli import end, environment, preset
from ranks import free_port

from pipeline.common.files import read_json, write_json
from pipeline.run import supervise
from pipeline.run.launch import torchrun_options
from pipeline.run.watchdog import NOTICE
from pipeline.settings import Cluster
from pipeline.stage import OUTCOME_FOLDER

HERE = Path(__file__).resolve().parent


@pytest.fixture
def start(tmp_path):
    """Starts the supervisor on `worker.py` in a mode; processes that a failed test left are ended."""
    path = preset(tmp_path)
    started = []

    def call(mode, *words, stops=True):
        command = [sys.executable, str(HERE / "supervisor.py"), str(tmp_path), str(int(stops)), f"model={path}", *words]
        process = subprocess.Popen(
            command, env=environment(ETR_FOLDER=str(tmp_path), TEST_MODE=mode), text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield call
    for process in started:
        end(process)
        process.stdout.close()
        process.stderr.close()


def finish(process):
    """Wait for a supervisor; returns (exit code, stdout, stderr)."""
    out, err = process.communicate(timeout=400)  # seconds on a quiet machine
    return process.returncode, out, err


def wait_for(path, count):
    """Until `count` ranks have touched files that match; returns all processes' ids written there."""
    deadline = time.monotonic() + 120
    while len(list(path.parent.glob(path.name))) < count:
        assert time.monotonic() < deadline, "the ranks did not start"
        time.sleep(0.05)
    return [int(file.read_text()) for file in path.parent.glob(path.name)]


def alive(pids):
    """Those of the processes that still run; a zombie that nobody has reaped does not."""
    running = []
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                running.append(pid)
        except psutil.NoSuchProcess:
            continue
    return running


def assert_all_gone(pids):
    deadline = time.monotonic() + 10
    while alive(pids):
        assert time.monotonic() < deadline, f"left behind: {alive(pids)}"
        time.sleep(0.05)


def test_a_failed_rank_is_started_again_as_often_as_asked_and_the_result_handed_over(tmp_path, start):
    code, out, err = finish(start("once", "cluster.max_restarts=1"))
    assert code == 0, err
    assert json.loads(out.splitlines()[-1]) == {"result": {"sum": 3.0}, "stopped": False}
    assert "rank 0 of 2" in out
    assert "rank 1 of 2" not in out  # only the first rank prints on the screen
    assert (tmp_path / "stage/logs/node0/agent.log").exists()
    logs = sorted((tmp_path / "stage").glob("logs/node0/*/attempt_*/1/stdout.log"))
    assert [log.read_text().strip() for log in logs] == ["rank 1 of 2"] * 2


@pytest.mark.parametrize(
    ("mode", "code", "last"),
    [
        ("input", 3, "Rank 1: the file x.jsonl is missing"),
        ("kill", 1, r"Rank 1 \(process \d+\) was killed by SIGKILL; often the kernel does that when memory runs out."),
        ("import", 1, r"Rank 1 \(process \d+\) ended with exit code 1."),
    ],
)
def test_the_failing_ranks_code_passes_through_and_its_error_comes_last(start, mode, code, last):
    """Rank 0 waits in a collective and fails because of rank 1; it must not be blamed, and it must not hang."""
    got, out, err = finish(start(mode))
    lines = err.strip().splitlines()
    assert got == code, err
    assert re.fullmatch(last, lines[-1]), err
    assert "Gloo" not in out + err  # native messages of the ranks and of torchrun are in their logs
    assert "Warning" not in out + err
    if mode == "import":
        assert "nothing_like_it" in err


def test_ctrl_c_lets_the_step_finish(tmp_path, start):
    process = start("loop")
    pids = wait_for(tmp_path / "started.*", 2)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 0, err
    ending = json.loads(out.splitlines()[-1])
    assert ending["stopped"] is True
    assert ending["result"]["saved"] is True
    assert "finishing the step" in err
    assert_all_gone(pids)


def test_a_second_ctrl_c_stops_at_once_and_leaves_no_orphans(tmp_path, start):
    process = start("deaf")  # its ranks never ask whether to stop
    pids = wait_for(tmp_path / "started.*", 2)
    everyone = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    assert set(pids) < set(everyone)  # the agent and the ranks' own children are among them
    process.send_signal(signal.SIGINT)
    while not (tmp_path / "stage" / "stop").exists():  # signals that come together would be one
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 1, err
    assert json.loads(out.splitlines()[-1])["stopped"] is True
    assert "stopping at once" in err
    assert_all_gone(everyone)


def test_when_the_launcher_is_killed_its_ranks_die_with_it(tmp_path, start):
    process = start("deaf")
    wait_for(tmp_path / "started.*", 2)
    everyone = [child.pid for child in psutil.Process(process.pid).children(recursive=True)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert_all_gone(everyone)


def test_ctrl_c_on_a_stage_without_steps_stops_it_at_once(tmp_path, start):
    process = start("deaf", stops=False)
    pids = wait_for(tmp_path / "started.*", 2)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 1, err
    assert json.loads(out.splitlines()[-1])["stopped"] is True
    assert_all_gone(pids)


@pytest.mark.parametrize("mode", ["ok", "raise"])
def test_two_nodes_on_one_machine(start, mode):
    """Two agents with one rank each, joined by a rendezvous at node 0. A failure on node 1 ends both, and
    both say it."""
    words = ["cluster.nnodes=2", "cluster.devices_per_node=1", f"cluster.master_port={free_port()}"]
    nodes = [start(mode, *words, f"cluster.node_rank={node}") for node in (0, 1)]
    endings = [finish(node) for node in nodes]
    for number, (code, out, err) in enumerate(endings):
        assert code == (0 if mode == "ok" else 1), err
        if mode == "ok":
            assert f"rank {number} of 2" in out
            assert json.loads(out.splitlines()[-1])["result"] == {"sum": 3.0}
        else:
            *_, error, last = err.strip().splitlines()
            assert error == "ValueError: rank one is ill"
            assert re.fullmatch(r"Rank 1 failed\. Its log: \S+/logs/node1/rank1\.log", last)


def test_a_rank_that_stops_answering_is_named_and_its_peers_do_not_wait(start):
    """At the first start rank 1 is stopped, which torchrun answers with a restart; then it never gets on."""
    code, out, err = finish(start("silent", "cluster.max_restarts=1", "cluster.timeout_minutes=0.1"))
    assert code == 1, err
    assert re.search(r"Rank 1 on \S+ \(process \d+\): no sign of life for \d+ s, last in generate of step 2\.", out)
    first, waits, here, frame, *_, last = err.strip().splitlines()
    assert re.fullmatch(r"Rank 1 on \S+ \(process \d+\): no progress for \d+ s in generate of step 2\.", first), err
    assert re.fullmatch(r"Rank 0: in update of step 2 for \d+ s\.", waits), err
    assert here == "Rank 1 was here, the latest call first:"
    assert "in wait_in_vain" in frame
    assert last.endswith("The limit is cluster.timeout_minutes=0.1.")
    assert "Traceback" not in err


@pytest.mark.parametrize("mode", ["raise, killed", "silent, killed"])
def test_after_a_restart_only_the_new_attempts_end_is_shown(start, mode):
    """At the first start rank 1 raises, or is stopped and ended by the watchdog. At the second the kernel kills it."""
    limit = ["cluster.timeout_minutes=0.1"] if mode.startswith("silent") else []
    code, _, err = finish(start(mode, "cluster.max_restarts=1", *limit))
    assert code == 1, err
    last = err.strip().splitlines()[-1]
    assert re.fullmatch(r"Rank 1 \(process \d+\) was killed by SIGKILL; .*", last), err
    assert "ill at first" not in err
    assert "no sign of life" not in err


def test_an_attempt_that_never_begins_is_not_blamed_on_the_one_before(tmp_path):
    """An agent whose earlier attempt the watchdog ended, and whose other node does not come again."""
    cluster = Cluster(
        nnodes=2, devices_per_node=1, master_addr="127.0.0.1", master_port=free_port(), timeout_minutes=1 / 60
    )
    before = tmp_path / f"{NOTICE}0.json"
    write_json(before, {"time": 0, "message": "Rank 0: no sign of life"})
    command = [
        sys.executable,
        "-m",
        "pipeline.run.torchrun",
        *torchrun_options(cluster, 0, str(tmp_path / "logs")),
        "none",
    ]
    ended = subprocess.run(
        command, env=environment(**{OUTCOME_FOLDER: str(tmp_path)}), timeout=120, capture_output=True
    )
    assert ended.returncode == 1
    assert "node 1 did not come" in read_json(tmp_path / f"{NOTICE}-agent0.json")["message"]
    assert not before.exists()


def test_of_several_starts_the_newest_ones_output_is_shown(tmp_path):
    """torchrun names its folder of each start at random."""
    for time_s, name in enumerate(["none_c", "none_a", "none_b"]):
        file = tmp_path / name / "attempt_0" / "1" / "stderr.log"
        file.parent.mkdir(parents=True)
        file.write_text(f"of {name}")
        os.utime(file, (time_s, time_s))
    assert supervise._tail(tmp_path, 1, 1).splitlines()[1:] == ["of none_b"]


def test_a_checkpoints_writer_ends_with_its_rank_and_keeps_no_other_process(tmp_path, start):
    process = start("writer")
    (rank,) = wait_for(tmp_path / "started.1", 1)
    writer = None
    while writer is None:
        own = psutil.Process(rank).children()
        writer = next((child for child in own if child.cmdline() == psutil.Process(rank).cmdline()), None)
    below = [child.pid for child in psutil.Process(rank).children(recursive=True)]
    assert len(below) >= 3  # the writer, the pool's nursery and its worker
    os.kill(rank, signal.SIGKILL)
    code, _, err = finish(process)
    assert code == 1, err
    assert_all_gone(below)
