"""The checks after a kill see a process that is only half dead."""

import subprocess
import sys
import time
import uuid

import psutil
from cli import environment
from leftovers import command_line, open_ports, tagged

HALF_DEAD = """
import ctypes, socket, threading, time
server = socket.create_server(("127.0.0.1", 0))
threading.Thread(target=time.sleep, args=(60,)).start()
print(server.getsockname()[1], flush=True)
ctypes.CDLL(None).syscall(60, 0)  # x86-64's exit, of this thread alone
"""


def test_a_zombie_whose_thread_lives_is_found_with_its_port():
    tag = uuid.uuid4().hex
    command = [sys.executable, "-c", HALF_DEAD]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(TAG_OF_A_TEST=tag)) as process:
        try:
            assert process.stdout is not None
            port = int(process.stdout.readline())
            deadline = time.monotonic() + 30
            while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            assert open_ports()[port] == {process.pid}
            assert [one.pid for one in tagged("TAG_OF_A_TEST", tag)] == [process.pid]
            assert HALF_DEAD in command_line(process.pid)
        finally:
            process.kill()
    assert port not in open_ports()
    assert not tagged("TAG_OF_A_TEST", tag)
