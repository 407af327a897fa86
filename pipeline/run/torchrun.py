"""torchrun, whose account of the failed ranks goes into a file instead of a banner.

Same arguments as `torchrun`, which is `python -m torch.distributed.run`. On a failure torchrun prints some forty lines
in which the error is not; here `agent<node>.json` beside the ranks' outcome files says which ranks failed and how, and
`pipeline.run.supervise` prints the one message that matters, last.
"""

import logging
import os
import socket
import sys

from torch.distributed import PrefixStore, TCPStore, run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)

from pipeline.common.processes import die_with_parent
from pipeline.stage import PARENT, leave_word


class LoopbackRendezvous(RendezvousHandler):
    """The meeting of one node's ranks, at a store that nobody outside this machine can reach.

    torchrun's `--standalone` and its static rendezvous open their store on all interfaces (torch 2.13), without a
    password, and the agent unpickles the state that it finds there: whoever reached the port could run commands. Here
    the store listens on 127.0.0.1, no state is pickled, and each start of the ranks gets a store of its own.
    """

    backend = "loopback"

    def __init__(self, parameters: RendezvousParameters):
        self.run_id = parameters.run_id
        self.starts = 0
        self.store: TCPStore | None = None

    def get_backend(self) -> str:
        return self.backend

    @property
    def use_agent_store(self) -> bool:
        return True

    def next_rendezvous(self) -> RendezvousInfo:
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        self.store = TCPStore(
            "127.0.0.1", port, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
        )
        self.starts += 1
        store = PrefixStore(f"{self.run_id}/{self.starts}", self.store)
        return RendezvousInfo(store, 0, 1, RendezvousStoreInfo("127.0.0.1", port))

    def is_closed(self) -> bool:
        return False

    def set_closed(self) -> None:
        pass

    def num_nodes_waiting(self) -> int:
        return 0

    def get_run_id(self) -> str:
        return self.run_id

    def shutdown(self) -> bool:
        return True


def main(arguments: list[str]) -> int:
    """Run the agent of this node; returns 0 if every rank ended well, 1 otherwise."""
    parent = os.environ.get(PARENT)
    die_with_parent(int(parent) if parent else None)
    os.environ[PARENT] = str(os.getpid())
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it would report each rank that it ends itself
    rendezvous_handler_registry.register(LoopbackRendezvous.backend, LoopbackRendezvous)
    options = run.parse_args(arguments)
    try:
        run.run(options)
    except ChildFailedError as error:
        failures = [
            {
                "rank": rank,
                "local_rank": failure.local_rank,
                "pid": failure.pid,
                "exitcode": failure.exitcode,
                "time": failure.timestamp,  # whole seconds at which the agent saw the end
            }
            for rank, failure in error.failures.items()
        ]
        leave_word(f"agent{options.node_rank}.json", failures)
        return 1
    except SignalException:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
