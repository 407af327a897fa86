"""stage=doctor check=cluster: two processes that pretend to be two nodes, with planted differences."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from cli import ROOT, environment
from ranks import free_port, run_ranks
from torch.distributed import TCPStore

from pipeline.run.compose import compose
from stages.checks import cluster, nodes
from stages.checks.nodes import Node, problems

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What both nodes found under each planted difference."""
    folder = tmp_path_factory.mktemp("shared")
    results = run_ranks(2, HERE / "cluster_ranks.py", folder, free_port(), free_port())
    both = [json.loads(result.stdout.splitlines()[-1]) for result in results]
    assert both[0] == both[1]
    return both[0] | {"screen": results[1].stdout}


def test_equal_nodes_have_no_faults(found):
    assert found["nothing"] == []


@pytest.mark.parametrize(
    ("name", "node", "parts"),
    [
        ("revision", 1, ["its checkout is at 0123456789, that of node 0 at", "check out the same revision"]),
        ("versions", 1, ["torch is 1.0, node 0 has", "Make the environment again there"]),
        ("gpus", 1, ["cluster.devices_per_node=8, but", "offers 0 GPUs"]),
        ("clock", 1, ["its clock is 90.0 s ahead of node 0", "Synchronize"]),
        ("address", 0, ["it cannot connect to node 1 at host.invalid:", "Open all TCP ports"]),
    ],
)
def test_a_difference_names_node_cause_and_cure(found, name, node, parts):
    (fault,) = found[name]
    assert fault.startswith(f"node {node} (")
    assert [part for part in parts if part not in fault] == []


def test_a_folder_that_is_not_shared_is_seen_from_both_sides(found):
    assert [fault.partition(" (")[0] for fault in found["folder"]] == ["node 0", "node 1"]
    assert "does not hold what node 1 wrote there: the folder is not shared" in found["folder"][0]
    assert "runs_dir=" in found["folder"][1]


def test_the_whole_check_ends_with_the_faults_on_every_node(found):
    (error,) = found["main"]
    assert error.startswith("These nodes cannot work together yet:\n- node 0 (")
    assert "- node 1 (" in error
    assert error.count("offers 0 GPUs") == 2
    assert "bandwidth: not measured, because of the faults below" in found["screen"]
    assert "versions of node 0: python" in found["screen"]


def test_two_sound_nodes_on_the_command_line(tmp_path):
    """Over loopback, with gloo: bandwidth measured, exit code 0 on both, and one screen."""
    words = ["stage=doctor", "check=cluster", "name=pair", f"runs_dir={tmp_path}", "cluster.nnodes=2"]
    words += ["cluster.devices_per_node=1", f"cluster.master_port={free_port()}"]
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.run.cli", *words, f"cluster.node_rank={node}"],
            cwd=ROOT, env=environment(), text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for node in (0, 1)
    ]  # fmt: skip
    for process in started:
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert "allreduce" in out
        assert "network" in out
        assert "of which the plan assumes nothing" in out
        assert "link" not in out  # one device a node
        assert len(out.splitlines()) < 25


def listening():
    """Where this process listens."""
    return {place.laddr for place in psutil.Process().net_connections() if place.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("nnodes", [1, 2])
def test_the_store_listens_at_the_address_of_node_0s_name_alone(nnodes):
    before = listening()
    words = ["stage=doctor", "check=cluster", f"cluster.nnodes={nnodes}", "cluster.master_addr=localhost"]
    store = cluster.join(compose([*words, f"cluster.master_port={free_port()}"]).cluster)
    assert {place.ip for place in listening() - before} == {"127.0.0.1"}
    del store


def test_connections_are_tried_at_the_nodes_own_address_alone():
    opened = set()

    class Meeting(cluster.Meeting):
        def heard(self, *words, **more):
            opened.update(listening() - before)
            return super().heard(*words, **more)

    meeting = Meeting(TCPStore("127.0.0.1", free_port(), is_master=True, wait_for_workers=False), 0, 1)
    before = listening()
    assert cluster.connections(meeting, "127.0.0.1") == []
    assert {place.ip for place in opened} == {"127.0.0.1"}
    assert listening() == before


def test_a_node_that_does_not_come_is_named():
    meeting = cluster.Meeting(TCPStore("127.0.0.1", free_port(), is_master=True, wait_for_workers=False), 0, 3)
    meeting.say("here", "alone")
    with pytest.raises(Exception, match=r"No answer from nodes 1, 2 in 0\.001 minutes"):
        meeting.heard("here", minutes=0.001)


SETTINGS = compose(
    ["stage=doctor", "check=cluster", "model=8b", "cluster=gpu8", "cluster.nnodes=2", "cluster.master_addr=a"]
)
SOUND = Node(
    number=0, host="a", revision="r", versions={"torch": "2"}, gpus=["GPU 0: H100"] * 8, device_problem=None,
    memory_gib=1000, disk_gib=2000, shm_gib=8, open_files=65536, host_address="10.0.0.1",
    bandwidth={"allreduce": 40.0, "link": 400.0, "network": 45.0},
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"memory_gib": 500.0}, "it has 500 GiB of memory, and cluster.node_memory_gib=1024 is planned"),
        ({"disk_gib": 100.0}, "checkpoints of model=8b need 427"),
        ({"shm_gib": 0.06}, "/dev/shm has 0.06 GiB free, and 8 ranks need 1.00"),
        ({"open_files": 1024}, "may open 1024 files, and needs 1536. Set ulimit -n 1536"),
        ({"gpus": ["GPU 0: A100"] * 8}, "its GPUs are A100, those of node 0 H100"),
        ({"host_address": "127.0.1.1"}, "its host name means 127.0.1.1 to it"),
        ({"bandwidth": {"link": 20.0}}, "link reaches 20.0 GB/s, and the plan assumes 450 (cluster.speed.link_gb_s)"),
        ({"bandwidth": {"network": 3.0}}, "the plan assumes 50 (cluster.speed.network_gb_s)"),
        ({"bandwidth": {"allreduce": 3.0}}, "the plan assumes 50 (cluster.speed.network_gb_s)"),
        ({"bandwidth_problem": "device 3: boom"}, "the collectives failed: device 3: boom"),
    ],
)
def test_what_one_node_lacks(change, text):
    other = replace(SOUND, number=1, host="b")
    assert problems([SOUND, other], SETTINGS) == []
    (fault,) = problems([SOUND, replace(other, **change)], SETTINGS)
    assert fault.startswith("node 1 (b): ")
    assert text in fault


def test_one_node_alone_is_measured_against_its_links():
    alone = SETTINGS.model_copy(update={"cluster": SETTINGS.cluster.model_copy(update={"nnodes": 1})})
    assert "cluster.speed.link_gb_s" in problems([replace(SOUND, bandwidth={"allreduce": 100.0})], alone)[0]
    assert nodes.short_revision(None) == "no git revision"
