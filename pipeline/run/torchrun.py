"""torchrun, but its report of failed ranks goes into a file, and its other messages into a log.

Same arguments as `torchrun`, which is `python -m torch.distributed.run`. On a failure torchrun prints some forty lines
that do not hold the error. Here `agent<node>.json` beside the ranks' outcome files says which ranks failed and how, and
`pipeline.run.supervise` prints the error last.
"""

import contextlib
import logging
import os
import sys
from pathlib import Path
from typing import TextIO

from pipeline.common.processes import die_with_parent
from pipeline.stage import LOG_FOLDER, PARENT, write_outcome

CPP_LEVEL = "TORCH_CPP_LOG_LEVEL"


def main(arguments: list[str]) -> int:
    """Run the agent of this node; returns 0 if every rank ended well, 1 otherwise."""
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
    os.environ[CPP_LEVEL] = level or "ERROR"  # warnings of its native code would reach the screen
    # Imported here, so that the loggers and warnings of torch find the log.
    from torch.distributed import run
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
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
