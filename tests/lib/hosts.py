"""Hosts on one machine: each has its own network, host name, processes and /dev/shm; all see the same files.

A host is a set of Linux namespaces held by one process, its init. They meet at a bridge in a namespace of its own, which
can drop what a host sends and receives: the host's connections then hear nothing, not even a reset. Nothing is left in
/etc or /run, and all ends with the processes that hold it. Needs root.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from cli import ROOT, end, environment

from pipeline.common.processes import die_with_parent

NET = "10.77.0."
TOOLS = ("unshare", "nsenter", "mount", "ip", "bridge", "ss")
INIT = "import signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN); print(flush=True)\nwhile True: signal.pause()"
"""Reaps orphans, as the first process of a host does."""
BEGIN = """set -e
hostname {name}
mount --bind {hosts} /etc/hosts
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
exec {python} -S -c '{init}'
"""


class Host:
    """One host: `node0` is 10.77.0.1."""

    def __init__(self, number: int, hosts_file: Path):
        self.number, self.name, self.address = number, f"node{number}", f"{NET}{number + 1}"
        self.hosts_file = hosts_file
        self.init = 0
        self.boot()

    def boot(self) -> None:
        """Starts the host, without a link."""
        script = BEGIN.format(name=self.name, hosts=self.hosts_file, python=sys.executable, init=INIT)
        spaces = ["--net", "--uts", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"]
        words = ["unshare", *spaces, "sh", "-c", script]
        self.holder = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, preexec_fn=die_with_parent
        )
        assert self.holder.stdout is not None
        assert self.holder.stdout.readline(), "the host has not started"
        (init,) = psutil.Process(self.holder.pid).children()
        self.init = init.pid

    def inside(self, *words: str) -> list[str]:
        """A command line that runs `words` on this host, in the present folder."""
        return ["nsenter", f"--target={self.init}", "--net", "--uts", "--mount", "--pid", "--ipc", "--wd=.", *words]

    def call(self, *words: str) -> str:
        return subprocess.run(self.inside(*words), check=True, capture_output=True, text=True).stdout

    def processes(self) -> list[psutil.Process]:
        """What runs on this host beside its init."""
        if not psutil.pid_exists(self.init):
            return []  # the host is halted
        space, found = os.readlink(f"/proc/{self.init}/ns/pid"), []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                here = os.readlink(f"/proc/{process.pid}/ns/pid") == space and process.pid != self.init
                if here and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def listening(self) -> set[tuple[str, int]]:
        """Address and port of every TCP socket that listens on this host; `*` is every address."""
        places = (line.split()[3].rpartition(":") for line in self.call("ss", "-Hltn").splitlines())
        return {(address.strip("[]"), int(port)) for address, _, port in places}

    def halt(self) -> None:
        """All its processes are killed at once, as by a loss of power."""
        with suppress(ProcessLookupError):
            os.kill(self.init, signal.SIGKILL)
        self.holder.wait()
        self.holder.stdout.close()


class Hosts:
    """Hosts that reach each other, numbered from 0. A context manager."""

    def __init__(self, folder: Path, count: int = 2, debian: bool = False):
        """`debian`: each host's own name means 127.0.1.1 there, as Debian's installer writes it."""
        reason = missing()
        if reason:
            pytest.skip(reason)
        folder.mkdir(parents=True, exist_ok=True)
        self.switch = subprocess.Popen(
            ["unshare", "--net", "--kill-child", "--fork", "sleep", "infinity"], preexec_fn=die_with_parent
        )
        self.started: list[subprocess.Popen[str]] = []
        self.hosts = []
        for number in range(count):
            lines = ["127.0.0.1 localhost", *([f"127.0.1.1 node{number}"] if debian else [])]
            lines += [f"{NET}{n + 1} node{n}" for n in range(count) if n != number or not debian]
            file = folder / f"hosts{number}"
            file.write_text("\n".join(lines) + "\n")
            self.hosts.append(Host(number, file))
        self._at_switch("ip", "link", "add", "br0", "type", "bridge")
        self._at_switch("ip", "link", "set", "br0", "up")
        for host in self.hosts:
            self.plug(host)

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.started:
            end(process)
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        for host in self.hosts:
            host.halt()
        self.switch.kill()
        self.switch.wait()

    def __getitem__(self, number: int) -> Host:
        return self.hosts[number]

    def _at_switch(self, *words: str) -> None:
        deadline = time.monotonic() + 10
        while not (inner := psutil.Process(self.switch.pid).children()):  # unshare has not forked yet
            assert time.monotonic() < deadline
        subprocess.run(["nsenter", f"--target={inner[0].pid}", "--net", *words], check=True)

    def plug(self, host: Host) -> None:
        """Gives the host its link."""
        port = f"port{host.number}"
        self._at_switch("ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.init))
        self._at_switch("ip", "link", "set", port, "master", "br0", "up")
        host.call("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
        host.call("ip", "link", "set", "eth0", "up")

    def cut(self, number: int) -> None:
        """What the host sends or should receive is dropped from now on; its interface stays up."""
        self._at_switch("bridge", "link", "set", "dev", f"port{number}", "state", "0")

    def mend(self, number: int) -> None:
        self._at_switch("bridge", "link", "set", "dev", f"port{number}", "state", "3")

    def lose(self, number: int) -> None:
        """The host is gone: its link first, so that nobody hears of its end."""
        self.cut(number)
        self.hosts[number].halt()

    def assert_empty(self) -> None:
        """Asserts that no process is left on any host, a moment after the end."""
        _, left = psutil.wait_procs([process for host in self.hosts for process in host.processes()], timeout=10)
        assert not [process.cmdline() for process in left if process.status() != psutil.STATUS_ZOMBIE]

    def bring_back(self, number: int) -> None:
        """The host starts again, with its link and without its processes."""
        self._at_switch("ip", "link", "delete", f"port{number}")  # the kernel would take a while
        self.hosts[number].boot()
        self.plug(self.hosts[number])

    def start(self, number: int, words: list[str], cwd: Path = ROOT, **extra: str) -> "subprocess.Popen[str]":
        """Starts a command on a host and leaves it running."""
        process = subprocess.Popen(
            self.hosts[number].inside(*words), cwd=cwd, env=environment(**extra), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        self.started.append(process)
        return process


def missing() -> str:
    """Why no hosts can be made here; empty if they can."""
    if os.geteuid() != 0 or any(shutil.which(tool) is None for tool in TOOLS):
        return f"needs root and {', '.join(TOOLS)}, to make hosts on this machine"
    words = ["unshare", "--net", "--mount", "--pid", "--fork", "ip", "link", "add", "br0", "type", "bridge"]
    tried = subprocess.run(words, capture_output=True, text=True)
    return f"namespaces or bridges are not allowed here: {tried.stderr}" if tried.returncode else ""
