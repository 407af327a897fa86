"""A checkpoint that two ranks of one host wrote (TP 2) goes on over two hosts, at tensor, pipeline or data parallelism: after
five more steps each parameter is within 1e-5 relative of the undisturbed ones. One host's layouts: test_layouts.py."""

import sys
from pathlib import Path

import pytest
from cli import ROOT
from hosts import Hosts
from ranks import run_ranks

SCRIPT = Path(__file__).with_name("resharding_hosts_ranks.py")


@pytest.mark.slow
def test_a_checkpoint_of_one_host_goes_on_over_two(tmp_path):
    folder = tmp_path / "checkpoints"
    world = {
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "node0",
        "MASTER_PORT": "29510",
        "CUDA_VISIBLE_DEVICES": "",
    }
    world["PYTHONPATH"] = f"{ROOT}:{ROOT / 'tests' / 'lib'}"
    with Hosts(tmp_path / "hosts") as hosts:
        run_ranks(2, SCRIPT, folder, "make", timeout=240)
        for layout in ("tp", "pp", "dp"):
            command = [sys.executable, str(SCRIPT), str(folder), layout]
            ranks = [hosts.start(rank, command, **world, RANK=str(rank)) for rank in (0, 1)]
            for rank in ranks:
                out, err = rank.communicate(timeout=240)
                assert rank.returncode == 0, err
                assert out.startswith(f"ok {layout} ")
                print(out, end="")
