"""The pool: one grade for each pair, in order, whatever the input and whatever dies."""

import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import wait
from pathlib import Path

import psutil
import pytest

from pipeline.settings.serving import Verify
from pipeline.verify import Conventions, Grade, VerifierPool, share_of_workers
from pipeline.verify.types import DEFAULT
from pipeline.verify.workers.slot import processor_seconds

ROOT = Path(__file__).resolve().parents[2]


def _numbers(count: int, offset: int = 0) -> list[tuple[str, str]]:
    """Every third one is wrong."""
    return [(rf"\boxed{{{k + (k % 3 == 0)}}}", str(k)) for k in range(offset, offset + count)]


def _right(count: int) -> list[bool]:
    return [k % 3 != 0 for k in range(count)]


def test_order_is_kept(pool: VerifierPool) -> None:
    assert [grade.correct for grade in pool.grade_many(_numbers(1000))] == _right(1000)


def test_any_input_gets_one_grade_each(pool: VerifierPool) -> None:
    strange = [
        (None, "1"), ("1", None), (1, 1), (b"1", "1"), None, (), ("1",), ("1", "1", "1", "1"), "11", ("\ud800", "\udfff"),
        ("\0", "\0"), ("", ""), ("x" * 2_000_000, "x"), (r"\boxed{" * 100_000, "1"), (["1"], {}), 7, (r"\boxed{1}", "1"),
    ]  # fmt: skip
    grades = pool.grade_many(strange)
    assert len(grades) == len(strange)
    assert all(isinstance(grade, Grade) for grade in grades)
    assert [k for k, grade in enumerate(grades) if grade.correct] == [10, 16]
    assert grades[0].reason == "not text"
    assert pool.grade_many([]) == []


def test_many_threads(pool: VerifierPool) -> None:
    found: dict[int, list[bool]] = {}

    def work(k: int) -> None:
        found[k] = [grade.correct for grade in pool.grade_many(_numbers(300, 300 * k))]

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: _right(300) for k in range(8)}


def _workers(pool: VerifierPool) -> list[psutil.Process]:
    process = pool._nursery._process
    assert process is not None
    return psutil.Process(process.pid).children()


def test_killed_workers_cost_no_result() -> None:
    """kill -9 of every worker, again and again, while a batch of symbolic pairs is in work."""
    pairs = [(rf"\boxed{{(x+{k})^2}}", f"x^2+{2 * k}x+{k * k + (k % 3 == 0)}") for k in range(1, 121)]
    with VerifierPool(workers=2, timeout_s=10.0, cache_size=0) as pool:
        future = pool.submit(pairs)
        for _ in range(3):
            for worker in _workers(pool):
                worker.kill()
            wait([future], timeout=0.3)
        grades = future.result(timeout=120)
        assert len(grades) == len(pairs)
        # A pair that lost two workers is given up, as wrong; no other verdict changes.
        given_up = {k for k, grade in enumerate(grades) if grade.reason == "worker died"}
        assert len(given_up) <= 2
        assert all(grade.correct is (k % 3 != 2) for k, grade in enumerate(grades) if k not in given_up)
        assert [grade.correct for grade in pool.grade_many(_numbers(10))] == _right(10)


def test_a_killed_nursery_is_replaced() -> None:
    with VerifierPool(workers=1) as pool:
        assert pool.grade_many([("1", "1")])[0].correct
        process = pool._nursery._process
        assert process is not None
        process.kill()
        process.wait()
        assert [grade.correct for grade in pool.grade_many(_numbers(5))] == _right(5)


SLOW = (r"\boxed{\sum_{k=1}^{4}k^2+\sin 2x}", r"30+2\sin x\cos x")
"""A right answer that only the symbolic layer can tell."""


def test_a_worker_without_processor_time_is_waited_for() -> None:
    with VerifierPool(workers=1, timeout_s=1.0) as pool:
        assert pool.grade_many([("1", "1")])[0].correct
        (worker,) = _workers(pool)
        worker.suspend()
        future = pool.submit([SLOW])
        wait([future], timeout=2.0)  # longer than the limit, on the clock
        assert not future.done()
        worker.resume()
        assert future.result(timeout=60)[0].correct
        assert pool.metrics()["respawns"] == 0


def test_a_worker_that_never_gets_processor_time_is_replaced_once() -> None:
    with VerifierPool(workers=1, timeout_s=0.4) as pool:
        assert pool.grade_many([("1", "1")])[0].correct
        (worker,) = _workers(pool)
        worker.suspend()
        assert [grade.correct for grade in pool.grade_many([("2", "2"), SLOW])] == [True, True]
        assert (pool.metrics()["respawns"], pool.metrics()["timeouts"]) == (1, 0)


def test_a_time_out_is_not_remembered() -> None:
    hang = (r"\boxed{\binom{1000000007}{500000000}+\sqrt{x}+\int_0^1 t\,dt}", r"\sqrt{x}+y")
    with VerifierPool(workers=1, timeout_s=0.3) as pool:
        assert [pool.grade_many([hang])[0].reason for _ in range(2)] == ["time-out"] * 2
        assert (pool.metrics()["timeouts"], pool.metrics()["cache_hits"]) == (2, 0)


def test_processor_time_of_a_process() -> None:
    before = processor_seconds(os.getpid())
    assert before is not None
    while (now := processor_seconds(os.getpid())) is not None and now < before + 0.02:
        pass
    assert now is not None
    assert processor_seconds(2**30) is None


def test_the_cache_knows_repeated_pairs() -> None:
    with VerifierPool(workers=1, cache_size=50) as pool:
        pairs = _numbers(40)
        first = pool.grade_many(pairs + pairs)
        assert first[:40] == first[40:]
        assert pool.metrics()["cache_hits"] == 40
        pool.grade_many(pairs)
        assert pool.metrics()["cache_hits"] == 80
        pool.grade_many(_numbers(60, 100))  # pushes the others out
        pool.grade_many(pairs)
        assert pool.metrics()["cache_hits"] == 80


def test_metrics(pool: VerifierPool) -> None:
    before = pool.metrics()
    pool.grade_many([("It is hard to say what comes out of all this", "123"), (r"\boxed{\frac{\oint}{2}+3}", "124.5")])
    after = pool.metrics()
    assert after["unread_extract"] == before["unread_extract"] + 1
    assert (
        after["unread_grammar"] + after["unread_symbolic"] == before["unread_grammar"] + before["unread_symbolic"] + 1
    )
    assert after["seconds"] > before["seconds"]
    assert {"graded", "cache_hits", "timeouts", "deaths", "respawns", "seconds"} <= set(after)


def test_back_pressure() -> None:
    """No more than a few chunks wait; the rest waits with its caller."""
    with VerifierPool(workers=1) as pool:
        futures = [pool.submit(_numbers(64, 64 * k)) for k in range(20)]
        assert pool._jobs.maxsize == 4
        assert sum(len(future.result()) for future in futures) == 20 * 64


def test_close_twice_and_use_afterwards() -> None:
    pool = VerifierPool(workers=1)
    pool.close()
    pool.close()
    with pytest.raises(RuntimeError, match="closed"):
        pool.grade_many([("1", "1")])


@pytest.mark.parametrize(("workers", "timeout_s"), [(0, 1.0), (1, 0.0), (-1, 1.0)])
def test_refuses_senseless_sizes(workers: int, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="workers must be"):
        VerifierPool(workers, timeout_s)


def test_ranks_share_a_node() -> None:
    assert [share_of_workers(8, ranks) for ranks in (1, 2, 3, 8, 64)] == [8, 4, 3, 1, 1]
    with VerifierPool.from_settings(Verify(workers=4), local_ranks=4) as pool:
        assert pool.workers == 1


def test_settings_and_conventions_have_the_same_defaults() -> None:
    assert Conventions.from_settings(Verify()) == DEFAULT
    assert Verify().form == "evaluated"  # training is stricter than a call by hand, whose default is equal


PROGRAM = """
import os, signal, time
from pipeline.verify import VerifierPool
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a program started in a shell's background ignores
pool = VerifierPool(workers=2, timeout_s=60)
pool.grade_many([("1", "1")] + [(f"{k}", "1") for k in range(200)])
holder = os.fork()  # as a checkpoint's writer, it has the sockets of the trainer, and may outlive it
if not holder:
    time.sleep(60)
    os._exit(0)
print(pool._nursery._process.pid, holder, flush=True)
pool.grade_many([(r"\\boxed{\\sum_{k=1}^{10^{7}}\\frac{\\sin(k^k)}{k}+x}", "x+y")] * 2)
time.sleep(60)
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_orphans(how: signal.Signals) -> None:
    """Ctrl-C, and a trainer that is killed: no process of the pool outlives it, though another has its sockets."""
    owner = subprocess.Popen(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout is not None
    nursery, holder = (psutil.Process(int(pid)) for pid in owner.stdout.readline().split())
    family = [nursery, *nursery.children()]
    os.kill(owner.pid, how)
    owner.wait(30)
    _, alive = psutil.wait_procs(family, timeout=30)
    holder.kill()
    assert [p for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []
