"""Grades one response without a pool of your own: `grade`."""

import atexit
import os
import threading
from collections.abc import Sequence

from pipeline.verify.grading import grade_pair
from pipeline.verify.types import DEFAULT, FORMS, Form, Grade
from pipeline.verify.workers.pool import VerifierPool, gold_text

_lock = threading.Lock()
_pools: dict[tuple[int, Form], VerifierPool] = {}
"""By process id, because a fork must not use its parent's workers, and by form."""


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


def grade(response: str, gold: str | Sequence[str], problem: str | None = None, form: Form = "equal") -> Grade:
    """Whether `response` ends in an answer equal to `gold`, or to any gold of a list, by the default conventions. Never raises
    on any text.

    `form="evaluated"` also asks that the answer is worked out, and with the `problem` at hand that it is not copied from
    there (docs/verifier.md).

    The cheap layers run here, in microseconds. The symbolic layer could be made to hang, so it runs in a worker of a
    pool that this module keeps, started on first need (a second or two)."""
    gold = gold_text(gold)
    if not isinstance(response, str) or not isinstance(gold, str):
        return Grade(False, None, "not text", "pool")
    if form not in FORMS:
        return Grade(False, None, f"no such form: {form!r}", "pool")
    problem = problem if isinstance(problem, str) else ""
    try:
        return grade_pair(response, gold, DEFAULT, _refuse, problem, form)
    except _NeedsSymbolicError:
        return _pool(form).grade_many([(response, gold, problem)])[0]
    except RecursionError:
        return Grade(False, None, "nested too deeply", "pool")
    except Exception as error:  # a defect of ours costs one answer, as it does in a worker
        return Grade(False, None, f"error: {type(error).__name__}", "pool")
