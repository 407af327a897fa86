"""grade: one answer, from any program, without a pool of one's own."""

import atexit
import os
import threading
from dataclasses import replace
from typing import Literal

from pipeline.verify.grading import grade_pair
from pipeline.verify.types import DEFAULT, Grade
from pipeline.verify.workers.pool import VerifierPool

Form = Literal["evaluated", "equal"]

_lock = threading.Lock()
_pools: dict[tuple[int, str], VerifierPool] = {}
"""By process id (a fork must not use its parent's workers) and form."""


class _NeedsSymbolicError(Exception):
    pass


def _refuse(question: str, left: str, right: str) -> bool | None:
    raise _NeedsSymbolicError


def _pool(form: Form) -> VerifierPool:
    with _lock:
        pool = _pools.get((os.getpid(), form))
        if pool is None:
            pool = _pools[os.getpid(), form] = VerifierPool(workers=1, form=form)
            atexit.register(pool.close)
        return pool


def grade(response: str, gold: str, problem: str | None = None, form: Form = "equal") -> Grade:
    """Whether `response` ends in an answer equal to `gold`, by the default conventions. Never raises on any text.

    With `form="evaluated"` the answer must also be worked out as far as the gold is, and is no copy from `problem`.

    The cheap layers run here, in microseconds. The symbolic layer could be made to hang, so it runs in a worker of a
    pool that this module keeps, started on first need (a second or two)."""
    if not isinstance(response, str) or not isinstance(gold, str) or not isinstance(problem, (str, type(None))):
        return Grade(False, None, "not text", "pool")
    try:
        return grade_pair(response, gold, replace(DEFAULT, form=form), _refuse, problem)
    except _NeedsSymbolicError:
        return _pool(form).grade_many([(response, gold, problem)])[0]
    except RecursionError:
        return Grade(False, None, "nested too deeply", "pool")
    except Exception as error:  # a defect of ours costs one answer, as it does in a worker
        return Grade(False, None, f"error: {type(error).__name__}", "pool")
