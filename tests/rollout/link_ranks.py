"""Run by test_link.py: a trainer (rank 0) and a server (rank 1) that speak over the link; no vLLM is needed.

argv: the address, and a folder that a crafted message would make.
"""

import os
import pickle
import sys
from pathlib import Path

import psutil
import pytest
import torch

from pipeline.rollout.gathering import Response
from pipeline.rollout.interface import Sampling
from pipeline.rollout.requests import Source
from pipeline.rollout.vllm.core import Options
from pipeline.rollout.vllm.link import Link, ServerError


class Command:
    """What a stranger would send."""

    def __init__(self, folder: str):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (self.folder,)


OPTIONS = Options("a folder", 2, "float32", 64, 8, 1 << 20, 0.5)
COMMANDS = [
    ("build", OPTIONS),
    ("generate", [[Source(0, "p", [1, 2], 1, (0, 1), 4)]], Sampling(max_new_tokens=4, stop=("x",)), 3),
    ("weight", None, (2, 3), torch.bfloat16),
    None,
]
ANSWER = Response(0, 1, [4, 5], [-0.5, -1.0], [-0.5, -1.0], True)


def trainer(link: Link, folder: str) -> None:
    own = psutil.Process().net_connections("inet")
    listening = {connection.laddr.ip for connection in own if connection.status == psutil.CONN_LISTEN}
    assert listening
    assert listening <= {"127.0.0.1", "::ffff:127.0.0.1"}, listening
    for command in COMMANDS:
        assert link.tell(command) == command
        assert [content for _, kind, content in link.hear() if kind == "response"] == [ANSWER]
    with pytest.raises(ServerError, match=r"asks for posix\.mkdir"):
        list(link.hear())
    assert not Path(folder).exists()
    assert pickle.dumps(Command(folder))  # it is a pickle that would have made it


def server(link: Link, folder: str) -> None:
    for command in COMMANDS:
        assert link.tell() == command
        link.answer(("response", ANSWER))
        link.answer(("done", None))
    link.answer(Command(folder))


def main() -> None:
    rank = int(os.environ["RANK"])
    link = Link.open(sys.argv[1], rank, 2, torch.device("cpu"), 1.0)
    (trainer if rank == 0 else server)(link, sys.argv[2])


if __name__ == "__main__":
    main()
