"""Trains on two hosts, each a network namespace of this machine, and takes the network or a host away.

    .venv/bin/python tests/stages/two_hosts.py <folder> cut       # the link between them is cut, and comes back
    .venv/bin/python tests/stages/two_hosts.py <folder> lost      # host 1 loses its processes and its link, and comes back

Needs the right to make network namespaces (root). The folder is made, and kept for the next call; it is the file system
that both hosts share. Nothing outside the two namespaces can reach them or be reached. After the fault both commands must
end by themselves and not with exit code 0. The same commands must then continue, and the metrics must equal those of a run
on one host to the bit, times aside. Exit code 1 if anything differs, 77 where namespaces cannot be made.
"""

import os
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lib")]

from cli import environment  # noqa: E402
from house import House, kill_all, rows, steps_done, until  # noqa: E402

PORT = 29511
STEPS = 6
LIMIT_MINUTES = 1
"""cluster.timeout_minutes of the run."""
PATIENCE_S = 5 * 60 * LIMIT_MINUTES
"""Longest wait for an end: the limit of long phases, three times the other, and time to start and stop."""
SKIPPED = 77
WORDS = [f"rl.steps={STEPS}", "rl.save_every=1", "cluster.threads_per_rank=1"]


class Hosts:
    """Two namespaces joined by one cable, a virtual Ethernet pair."""

    def __init__(self) -> None:
        self.names = [f"etr{os.getpid()}-{node}" for node in (0, 1)]
        self.address = "10.77.0.1"

    def make(self) -> None:
        """Raises CalledProcessError where this machine does not allow it."""
        for name in self.names:
            ip("netns", "add", name)
        a, b = self.names
        ip("-n", a, "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", b)
        for node, name in enumerate(self.names):
            ip("-n", name, "address", "add", f"10.77.0.{node + 1}/24", "dev", "wire")
            ip("-n", name, "link", "set", "lo", "up")
            ip("-n", name, "link", "set", "wire", "up")

    def remove(self) -> None:
        for name in self.names:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "delete", name)

    def cable(self, state: str) -> None:
        """`down` cuts it: packets are lost without a word to either side. `up` mends it."""
        ip("-n", self.names[1], "link", "set", "wire", state)

    def start(self, house: House, node: int) -> "subprocess.Popen[str]":
        """The training's command on that host."""
        words = house.words("rl", *WORDS, name="paired")
        words += [
            "cluster.nnodes=2", "cluster.devices_per_node=1", f"cluster.node_rank={node}", "cluster.interface=wire",
            f"cluster.master_addr={self.address}", f"cluster.master_port={PORT}", f"cluster.timeout_minutes={LIMIT_MINUTES}",
        ]  # fmt: skip
        process = subprocess.Popen(
            ["ip", "netns", "exec", self.names[node], sys.executable, "-m", "pipeline.run.cli", *words],
            cwd=house.folder, env=environment(ETR_FOLDER=str(house.folder)), text=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        house.started.append(process)
        return process


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@contextmanager
def two_hosts() -> Any:
    """Two joined hosts, removed at the end."""
    hosts = Hosts()
    try:
        hosts.make()
        yield hosts
    finally:
        hosts.remove()


def prepared(folder: Path) -> tuple[House, list[dict]]:
    """The run to train in, and the metrics of the same training on one host."""
    house = House(folder)
    for stage in ("preprocess", "sft", "convert"):
        done(house.run(stage))
    if not house.root("straight").is_dir():
        house.copy("straight", "preprocess", "convert")
    done(house.run("rl", *WORDS, name="straight"))
    if house.root("paired").is_dir():
        house.root("paired").rename(house.root(f"paired-{os.getpid()}"))
    house.copy("paired", "preprocess", "convert")
    return house, rows(house.root("straight") / "metrics.jsonl")


def done(result: Any) -> None:
    if result.code:
        raise SystemExit(result.err)


def ends(nodes: list["subprocess.Popen[str]"]) -> list[tuple[int, str]]:
    """Exit code and errors of each host's command."""
    found = []
    for process in nodes:
        _, err = process.communicate(timeout=PATIENCE_S)
        found.append((process.returncode, err))
    return found


def main(folder: Path, fault: str) -> int:
    house, expected = prepared(folder)
    metrics = house.root("paired") / "metrics.jsonl"
    wrong = []
    with two_hosts() as hosts:
        try:
            nodes = [hosts.start(house, node) for node in (0, 1)]
            until(lambda: metrics.exists() and steps_done(metrics) >= 2, nodes[0])
            hosts.cable("down")
            if fault == "lost":
                kill_all(nodes[1])
            for node, (code, err) in enumerate(ends(nodes)):
                print(f"--- host {node} after the fault: exit code {code}\n{err.strip()}", flush=True)
                if code == 0:
                    wrong.append(f"host {node} ended with 0")
            print(f"--- {steps_done(metrics)} of {STEPS} steps were made", flush=True)
            hosts.cable("up")
            for node, (code, err) in enumerate(ends([hosts.start(house, node) for node in (0, 1)])):
                print(f"--- host {node} afterwards: exit code {code}\n{err.strip()}", flush=True)
                if code:
                    wrong.append(f"host {node} did not continue")
            if rows(metrics) != expected:
                wrong.append("the metrics are not those of one host")
        finally:
            house.close()
    print("; ".join(wrong) or "equal to the run on one host")
    return 1 if wrong else 0


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in ("cut", "lost"):
        sys.exit(__doc__)
    try:
        sys.exit(main(Path(sys.argv[1]).resolve(), sys.argv[2]))
    except (subprocess.CalledProcessError, FileNotFoundError) as error:
        print(f"skipped: no network namespaces here: {getattr(error, 'stderr', error)}")
        sys.exit(SKIPPED)
