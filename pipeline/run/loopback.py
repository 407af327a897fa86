"""How the ranks of one node meet without a port that others can reach. Loads torch, so torchrun's process alone imports it."""

import socket
from collections.abc import Callable

from torch.distributed import PrefixStore, TCPStore
from torch.distributed.elastic.rendezvous import (
    RendezvousHandler,
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
)


class LoopbackRendezvous(RendezvousHandler):
    """Lets the ranks of one node meet at a store that nobody outside this machine can reach.

    torchrun's `--standalone` and its static rendezvous open their store on all interfaces (torch 2.13), without a
    password, and the agent unpickles the state that it finds there: whoever reached the port could run commands. Here
    the store listens on 127.0.0.1, no state is pickled, and each start of the ranks gets a new store.
    """

    backend = "loopback"

    def __init__(self, parameters: RendezvousParameters, before_start: Callable[[], None] = lambda: None):
        """`before_start` is called each time before the ranks start."""
        self.before_start = before_start
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
        self.before_start()
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
