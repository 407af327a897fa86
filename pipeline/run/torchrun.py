"""torchrun, but its report of failed ranks goes into a file, and its other messages into a log.

Same arguments as `torchrun`, which is `python -m torch.distributed.run`. On a failure torchrun prints some forty lines
that do not hold the error. Here `agent<node>.json` beside the ranks' outcome files says which ranks failed and how, and
`pipeline.run.supervise` prints the error last.
"""

import contextlib
import logging
import os
import re
import socket
import sys
import time
from pathlib import Path
from typing import Any, TextIO

from pipeline.common.processes import die_with_parent
from pipeline.run.watchdog import NOTICE
from pipeline.stage import LOG_FOLDER, PARENT, write_outcome

CPP_LEVEL = "TORCH_CPP_LOG_LEVEL"


def main(arguments: list[str]) -> int:
    """Runs the agent of this node; returns 0 if every rank ended well, 1 otherwise."""
    parent = os.environ.get(PARENT)
    die_with_parent(int(parent) if parent else None)
    os.environ[PARENT] = str(os.getpid())
    with _log() as log, contextlib.redirect_stderr(log):
        return _run(arguments)


def _log() -> contextlib.AbstractContextManager[TextIO]:
    """`agent.log`, or the screen outside a run. Only Python's stderr goes there: the first rank inherits the descriptors
    of the agent, and with them the screen."""
    folder = os.environ.get(LOG_FOLDER)
    try:
        return open(Path(folder) / "agent.log", "a", buffering=1) if folder else contextlib.nullcontext(sys.stderr)
    except OSError:
        return contextlib.nullcontext(sys.stderr)


def _run(arguments: list[str]) -> int:
    level = os.environ.get(CPP_LEVEL)
    os.environ[CPP_LEVEL] = level or "FATAL"  # what its native code prints would reach the screen; it raises as well
    # Imported here, so that the loggers and warnings of torch find the log.
    from torch.distributed import DistError, run
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import rendezvous_handler_registry

    from pipeline.run.loopback import LoopbackRendezvous

    if level is None:
        del os.environ[CPP_LEVEL]  # the ranks have a log for them
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
        write_outcome(f"agent{options.node_rank}.json", failures)
        return 1
    except SignalException:
        return 1
    except DistError as error:
        message = _alone(options, str(error))
        if message is None:
            raise
        write_outcome(f"{NOTICE}-agent{options.node_rank}.json", {"time": time.time(), "message": message})
        return 1
    return 0


def _alone(options: Any, error: str) -> str | None:
    """The message of a node that did not meet the others; None for an error of later."""
    place = f"{options.master_addr}:{options.master_port}"
    came = re.search(r"(\d+)/(\d+) clients joined", error)
    if came is None and not re.search("trying to connect|failed to connect", error):
        return None
    what = f"{came[1]} of {came[2]} came" if came else "node 0 did not answer"
    return (
        f"The {options.nnodes} nodes did not meet at {place} in time (cluster.timeout_minutes): {what}. Start the same "
        f"command on every node, with cluster.node_rank=0 to {int(options.nnodes) - 1}, and check that a firewall does not "
        f"close that port. This is node {options.node_rank}, {socket.gethostname()}."
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
