"""torchrun, whose account of the failed ranks goes into a file instead of a banner.

Same arguments as `torchrun`, which is `python -m torch.distributed.run`. On a failure torchrun prints some forty lines
in which the error is not; here `agent<node>.json` beside the ranks' outcome files says which ranks failed and how, and
`pipeline.run.supervise` prints the one message that matters, last.
"""

import logging
import os
import sys

from torch.distributed import run
from torch.distributed.elastic.multiprocessing import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from pipeline.common.processes import die_with_parent
from pipeline.stage import PARENT, leave_word


def main(arguments: list[str]) -> int:
    """Run the agent of this node; returns 0 if every rank ended well, 1 otherwise."""
    parent = os.environ.get(PARENT)
    die_with_parent(int(parent) if parent else None)
    os.environ[PARENT] = str(os.getpid())
    for name in ("torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # it would report each rank that it ends itself
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
