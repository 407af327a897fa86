"""Forked children end with their parent, whichever thread forked them, and not earlier; folders in memory of dead launchers
are deleted, those of living ones are not. A process that ends by `end_process` finishes its threads and exit handlers, and the
interpreter is not taken down."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
from cli import ROOT

from pipeline.common import scratch

FORKS = """
import os, threading, time
from pipeline.common.processes import tie_forked_children
tie_forked_children()
made = []
def fork():
    pid = os.fork()
    if not pid:
        grandchild = os.fork()
        if grandchild:
            os.write(1, f"{os.getpid()} {grandchild} ".encode())
        time.sleep(60)
        os._exit(0)
fork()
thread = threading.Thread(target=fork)
thread.start()
thread.join()
time.sleep(60)
"""


def test_forked_children_end_with_their_parent_and_not_with_the_thread_that_forked():
    parent = subprocess.Popen([sys.executable, "-c", FORKS], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    words = ""
    while words.count(" ") < 4:
        words += parent.stdout.read(1)
    forked = [psutil.Process(int(pid)) for pid in words.split()]
    assert all(process.is_running() for process in forked)  # the thread has ended by now, or is about to
    gone, _ = psutil.wait_procs(forked, timeout=0.5)
    assert not gone
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    _, alive = psutil.wait_procs(forked, timeout=10)
    assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


KILLED = """
import os, signal
from pipeline.common import scratch
with scratch.folder() as folder:
    print(folder, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_folder_of_a_launcher_that_was_killed_is_deleted_by_the_next_and_no_other():
    out = subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT, capture_output=True, text=True).stdout
    left = Path(out.strip())
    assert (left / scratch.OWNER).is_file()
    with scratch.folder() as living:
        assert not left.exists()
        with scratch.folder() as other:
            assert living.is_dir()
            assert other != living
    assert not living.exists()


ENDS = """
import atexit, threading
from concurrent.futures import ThreadPoolExecutor
from pipeline.common.processes import end_process
class TornDown:
    def __del__(self):
        print("torn down")
kept = TornDown()
atexit.register(print, "handler")
go = threading.Event()
threading.Thread(target=lambda: (go.wait(), print("thread\\n", end=""))).start()
ThreadPoolExecutor(1).submit(lambda: (print("pool\\n", end=""), go.set()))
end_process(3)
"""


def test_a_process_ends_after_its_threads_and_handlers_without_taking_the_interpreter_down():
    ended = subprocess.run([sys.executable, "-c", ENDS], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stderr) == (3, "")
    assert ended.stdout.split() == ["pool", "thread", "handler"]
