"""The GPUs that are there against those that the cluster preset promises, with a stand-in for the driver's tool."""

import pytest

from pipeline.common import devices
from pipeline.common.errors import UsageError
from pipeline.run import cli, machines
from pipeline.run.compose import compose


@pytest.fixture
def gpus(tmp_path, monkeypatch):
    """Puts a driver's tool on the path that lists `count` GPUs of `mib` MiB."""

    def of(count: int, mib: int) -> None:
        tool = tmp_path / "nvidia-smi"
        names = "\n".join(f"GPU {i}: NVIDIA H100 (UUID: {i})" for i in range(count))
        sizes = "\n".join(str(mib) for _ in range(count))
        tool.write_text(f"#!/bin/sh\ncase \"$1\" in -L) echo '{names}';; *) echo '{sizes}';; esac\n")
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        devices._listed.cache_clear()
        devices._memories.cache_clear()

    yield of
    devices._listed.cache_clear()
    devices._memories.cache_clear()


def cluster(name: str, *words: str):
    return compose(["stage=rl", "model=32b", f"cluster={name}", *words]).cluster


def test_the_gpus_of_the_preset_are_accepted(gpus):
    gpus(8, 81559)  # as an 80 GB card states it
    machines.check_devices(cluster("gpu8"))
    gpus(8, 143771)  # 141 GB
    machines.check_devices(cluster("gpu8-141g"))
    machines.check_devices(cluster("gpu8"))  # larger ones do as well


def test_smaller_gpus_than_planned_are_refused_with_the_preset_that_fits(gpus):
    gpus(8, 81559)
    with pytest.raises(
        UsageError, match=r"device_memory_gib=141, but .* has 79\.6 GiB.*cluster=gpu8 or cluster=gpu1 or"
    ):
        machines.check_devices(cluster("gpu8-141g"))


def test_gpus_that_no_preset_fits(gpus):
    gpus(8, 24564)
    with pytest.raises(UsageError, match=r"Use cluster\.device_memory_gib=23, and"):
        machines.check_devices(cluster("gpu8"))


def test_only_visible_gpus_count(gpus, monkeypatch):
    gpus(8, 81559)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    with pytest.raises(UsageError, match="offers 2 GPUs"):
        machines.check_devices(cluster("gpu8"))


def test_the_plan_on_such_a_machine_warns(gpus, capsys):
    gpus(8, 81559)
    assert cli.main(["stage=rl", "model=32b", "cluster=gpu8-141g", "dry_run=true"]) == 0
    assert "WARNING: cluster.device_memory_gib=141, but" in capsys.readouterr().out
