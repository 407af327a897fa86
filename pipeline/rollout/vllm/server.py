"""A vLLM server for standalone rollouts: `torchrun --nproc-per-node=N -m pipeline.rollout.vllm.server HOST:PORT N`.

HOST:PORT is the trainer's `rollout.server_address`, N its `rollout.server_ranks`. Everything else (model folder, engine
size, limits) comes from the trainer. The model folder must have the same path here. The server ends with the trainer, and
with an error if the trainer or another server is lost, or the trainer is silent for its `cluster.timeout_minutes`; with
torchrun's --max-restarts it then starts again and joins.
"""

import os
import sys
import traceback
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from pipeline.common.errors import UserError
from pipeline.common.processes import die_with_parent, end_process, tie_forked_children
from pipeline.rollout.vllm.blocks import checksums
from pipeline.rollout.vllm.core import EngineCore
from pipeline.rollout.vllm.link import Link
from pipeline.rollout.vllm.loading import Piece

PATIENCE_MINUTES = 24 * 60.0
"""Most minutes that a server waits for a trainer, or for its next command: training steps may be long."""


class Server:
    """One server rank: runs the trainer's commands until `stop`."""

    def __init__(self, link: Link):
        self.link = link
        self.core: EngineCore | None = None

    def serve(self) -> None:
        """Runs commands until `stop`. A command that fails is reported to the trainer, and raised."""
        while True:
            name, *arguments = self.link.tell()
            if name == "stop":
                return
            try:
                getattr(self, f"do_{name}")(*arguments)
                self.link.answer(("done", None))
            except Exception:  # every error is reported to the trainer
                self.link.answer(("error", traceback.format_exc(limit=-3)))
                raise

    @property
    def engine(self) -> EngineCore:
        assert self.core is not None, "the trainer builds the engine first"
        return self.core

    @property
    def place(self) -> tuple[int, int]:
        """The number of this rank's engine, and the rank within it."""
        return divmod(self.link.rank - 1, self.engine.options.tp)

    def do_build(self, options: Any) -> None:
        self.core = EngineCore(options)

    def do_sync(self) -> None:
        self.engine.wake("weights")
        self.engine.load(self._pieces())
        self.engine.wake("kv_cache")
        self.engine.weights_changed()

    def _pieces(self) -> Iterator[Piece]:
        """Receives headers and tensors, until a header is None."""
        while (header := self.link.tell()) is not None:
            name, first, shape, dtype = header
            yield name, first, self.link.weights(torch.empty(shape, dtype=dtype, device=self.link.device))

    def do_generate(self, shares: list, sampling: Any, policy_version: int) -> None:
        index, rank = self.place
        for response in self.engine.generate(shares[index], sampling, policy_version):
            if rank == 0:
                self.link.answer(("response", response))

    def do_score(self, sequences: list[list[int]]) -> None:
        scored = self.engine.score(sequences)
        if self.place[1] == 0:
            self.link.answer(("result", scored))

    def do_checksums(self) -> None:
        self.link.answer(("result", checksums(self.engine.model)))

    def do_sleep(self) -> None:
        self.engine.sleep()


def main(arguments: list[str]) -> int:
    """Joins the servers' own world, connects to the trainer, and serves. Returns the exit code."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        die_with_parent()  # torchrun; a server that was started in a shell may outlive that
    tie_forked_children()
    if len(arguments) != 2 or not arguments[1].isdigit():
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    address, size = arguments[0], int(arguments[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}.items():
        os.environ.setdefault(name, value)
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0"))) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=timedelta(minutes=PATIENCE_MINUTES))
    if dist.get_world_size() != size:
        print(
            f"the command says {size} server ranks, but torchrun started {dist.get_world_size()}; "
            f"start it with --nproc-per-node={size} in all",
            file=sys.stderr,
        )
        return 2
    try:
        link = Link.open(address, dist.get_rank() + 1, size + 1, device, PATIENCE_MINUTES)
        Server(link).serve()
        link.close()
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
