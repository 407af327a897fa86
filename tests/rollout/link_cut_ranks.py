"""Run by test_link.py: a trainer and a server whose link is cut while the trainer waits for an answer; no vLLM is needed.

argv: the address, `trainer`, `server` (never answers) or `next` (a server that comes instead).
"""

import sys
import time

import torch

from pipeline.common.processes import end_process
from pipeline.rollout.vllm.link import Link, ServerLostError


def trainer(address: str) -> None:
    link = Link.open(address, 0, 2, torch.device("cpu"), 60.0, patience_minutes=0.75)
    link.tell("generate")
    print("told", flush=True)
    try:
        list(link.hear())
    except ServerLostError as error:
        print(f"lost: {error}", flush=True)
    link.connect()
    link.tell("generate")
    print(f"heard: {[content for _, kind, content in link.hear() if kind == 'result']}", flush=True)
    link.close()


def server(address: str, role: str) -> None:
    link = Link.open(address, 1, 2, torch.device("cpu"), 60.0)
    link.tell()
    while role == "server":
        time.sleep(1)
    link.answer(("result", 7))
    link.answer(("done", None))
    link.close()


def main(address: str, role: str) -> int:
    if role == "trainer":
        trainer(address)
    else:
        server(address, role)
    return 0


if __name__ == "__main__":
    end_process(main(*sys.argv[1:]))
