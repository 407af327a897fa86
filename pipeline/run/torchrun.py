"""torchrun, but its report of failed ranks goes into a file, and its other messages into a log.

Same arguments as `torchrun`, which is `python -m torch.distributed.run`. On a failure torchrun prints some forty lines
that do not hold the error. Here `agent<node>.json` beside the ranks' outcome files says which ranks failed and how, and
`pipeline.run.supervise` prints the error last.
"""

import contextlib
import functools
import logging
import os
import sys
import time
from pathlib import Path
from typing import TextIO

from pipeline.common.processes import die_with_parent, end_process
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

    from pipeline.run import attempts
    from pipeline.run.loopback import LoopbackRendezvous
    from pipeline.run.meeting import NodesRendezvous, NotMetError, PeerEndedError

    if level is None:
        del os.environ[CPP_LEVEL]  # the ranks have a log for them
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it would report each rank that it ends itself
    options = run.parse_args(arguments)
    node = options.node_rank
    per_node = int(options.nproc_per_node)
    begin = functools.partial(attempts.begin, range(node * per_node, (node + 1) * per_node))
    loopback = functools.partial(LoopbackRendezvous, before_start=begin)
    nodes = functools.partial(NodesRendezvous, node=node, restarts=options.max_restarts > 0, before_start=begin)
    rendezvous_handler_registry.register(LoopbackRendezvous.backend, loopback)
    rendezvous_handler_registry.register(NodesRendezvous.backend, nodes)
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
        write_outcome(f"agent{node}.json", failures)
        return 1
    except SignalException:
        write_outcome(f"agent{node}.json", [])  # the other nodes need not wait for this one
        return 1
    except PeerEndedError:
        return 1  # its files say why
    except (NotMetError, DistError) as error:
        begin()  # what ended the attempt before is not why this one has not begun
        message = str(error) if isinstance(error, NotMetError) else f"The nodes lost each other as they met: {error}"
        write_outcome(f"{NOTICE}-agent{node}.json", {"time": time.time(), "message": message})
        return 1
    return 0


if __name__ == "__main__":
    end_process(main(sys.argv[1:]))
