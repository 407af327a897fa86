"""The bench runs and its parts add up; what it measures is not tested."""

import io
import json

import pytest
import torch
from rich.console import Console

from pipeline.objectives import group_advantages
from pipeline.settings import Algo
from stages.bench import objective as module


def test_the_bench_reports_every_part(monkeypatch):
    small = module.Workload("small", prompts=2, group=4, length=16, micro_batch=32)
    monkeypatch.setattr(module, "WORKLOADS", (small,))

    class Section:
        device, repeats = "cpu", 1

    class Settings:
        cluster = bench = Section

    text = io.StringIO()
    report = module.bench(Settings, Console(file=text, width=120))
    (row,) = json.loads(json.dumps(report))["rows"]
    assert set(row["total_ms"]) == {"etr", "grpo"}
    assert row["parts"]["etr"].keys() == {"groups and bounds", "loss and gradient", "token metrics"}
    assert all(ms > 0 for parts in row["parts"].values() for ms in parts.values())
    assert len(report["samples"]["small, etr"]) == len(report["samples"]["small, grpo"]) == 25
    assert row["tokens"] == pytest.approx(2 * 4 * 8, rel=0.5)
    assert "more than GRPO" in text.getvalue()


def test_the_bench_divides_by_the_std_that_the_settings_name(monkeypatch):
    divisors = []

    def recorded(rewards, normalize, *, std_ddof):
        divisors.append(std_ddof)
        return group_advantages(rewards, normalize, std_ddof=std_ddof)

    monkeypatch.setattr(module, "group_advantages", recorded)
    step = module._Step(module.Workload("small", prompts=2, group=4, length=16, micro_batch=32), torch.device("cpu"))
    for divisor in (0, 1):
        step.run(Algo(std_ddof=divisor))
    assert divisors == [0, 1]
