"""Hostile input: bounded in time and memory, never correct, never executed; and the pool is whole afterwards."""

import os
import time
from pathlib import Path

import psutil
import pytest
from hostile import hostile_pairs

from pipeline.verify import VerifierPool

LIMIT_S = 1.0
MEMORY_GIB = 2.0


def _workers() -> list[psutil.Process]:
    """Processes below this one that run the verifier, without the nursery, which bears them."""
    nurseries = [p for p in psutil.Process().children() if "pipeline.verify.workers.nursery" in " ".join(p.cmdline())]
    return [worker for nursery in nurseries for worker in nursery.children()]


@pytest.mark.slow
def test_hostile_inputs(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    pairs = hostile_pairs(marker)
    assert len(pairs) >= 300
    largest = 0
    with VerifierPool(workers=2, timeout_s=LIMIT_S, memory_gib=MEMORY_GIB, cache_size=0) as pool:
        grades = []
        for start in range(0, len(pairs), 16):
            grades += pool.grade_many(pairs[start : start + 16])
            largest = max([largest, *(worker.memory_info().rss for worker in _workers())])
        assert len(grades) == len(pairs)
        correct = [(r[:80], g[:80]) for (r, g), grade in zip(pairs, grades, strict=True) if grade.correct]
        assert correct == []
        slowest = max(grade.seconds for grade in grades)
        assert slowest <= LIMIT_S + 1
        assert not marker.exists()
        assert largest < MEMORY_GIB * 2**30
        again = pool.grade_many([(r"\boxed{x(x+1)}", "x^2+x"), (r"\boxed{41}", "42")])
        assert [grade.correct for grade in again] == [True, False]
        assert pool.metrics()["timeouts"] == sum(grade.reason == "time-out" for grade in grades)


def test_one_hostile_input_costs_its_own_time_only() -> None:
    """The limit holds for each answer, with the waiting for a new worker included."""
    with VerifierPool(workers=1, timeout_s=LIMIT_S) as pool:
        pool.grade_many([("1", "1")])
        started = time.monotonic()
        hang = (r"\boxed{\binom{1000000007}{500000000}+\sqrt{x}}", r"\sqrt{x}+y")
        grades = pool.grade_many([(r"\boxed{7}", "7"), hang, (r"\boxed{8}", "8")])
        assert [grade.correct for grade in grades] == [True, False, True]
        assert time.monotonic() - started < 60  # a hang, not a measurement


def test_a_worker_that_wants_too_much_memory_is_refused_it() -> None:
    with VerifierPool(workers=1, timeout_s=5.0, memory_gib=1.0) as pool:
        pair = (r"\boxed{\begin{bmatrix}1&2\\3&4\end{bmatrix}^{9^{9^9}}}", r"\begin{bmatrix}1&2\\3&4\end{bmatrix}^{2}")
        assert pool.grade_many([pair])[0].correct is False
        assert pool.grade_many([(r"\boxed{5}", "5")])[0].correct


def test_workers_write_nothing(tmp_path: Path) -> None:
    before = set(os.listdir(tmp_path))
    with VerifierPool(workers=1) as pool:
        pool.grade_many([(rf"\boxed{{open('{tmp_path}/x','w')}}", "1")])
    assert set(os.listdir(tmp_path)) == before
