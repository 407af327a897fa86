"""A signal that does not interrupt the waiting system call must still end the wait."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import Future

import pytest

from pipeline.common.waiting import exit_code_of, result_of


class RungError(Exception):
    pass


def _ring(*_: object) -> None:
    raise RungError


@pytest.fixture
def unfelt_signal():
    """Sends SIGUSR1 to this process during the test. Another thread receives it, so the main thread's system call
    continues, as it does if the signal comes just before the call."""
    old = signal.signal(signal.SIGUSR1, _ring)

    def send() -> None:
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGUSR1)
        time.sleep(0.2)  # this thread lives until it has come

    thread = threading.Thread(target=send)
    thread.start()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    yield
    thread.join()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    signal.signal(signal.SIGUSR1, old)


def test_a_wait_for_a_result_ends(unfelt_signal) -> None:
    future: Future[int] = Future()
    late = threading.Timer(20, future.set_result, (0,))
    late.start()
    with pytest.raises(RungError):
        result_of(future)
    assert not future.done()
    late.cancel()


def test_a_wait_for_a_process_ends(unfelt_signal) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(20)"])
    with pytest.raises(RungError):
        exit_code_of(process)
    assert process.poll() is None
    process.kill()
    assert exit_code_of(process) == -signal.SIGKILL


def test_results_and_errors_pass_through() -> None:
    future: Future[int] = Future()
    threading.Timer(0.05, future.set_result, (7,)).start()
    assert result_of(future) == 7
    failed: Future[int] = Future()
    failed.set_exception(ZeroDivisionError("why"))
    with pytest.raises(ZeroDivisionError, match="why"):
        result_of(failed)
