"""Grades many answers at once, in processes that can be killed: `VerifierPool`."""

import hashlib
import json
import math
import os
import queue
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from pipeline.common.waiting import result_of
from pipeline.verify.types import DEFAULT, FORMS, Conventions, Form, Grade
from pipeline.verify.workers.slot import NurseryHandle, Pair, Slot

CHUNK = 64
"""Pairs sent at once: a few milliseconds of work, so that both workers stay busy to the end of a batch."""
TAIL_CHARACTERS = 100_000
"""Only this much of a response's end is sent: it holds the final answer, and memory stays bounded."""
LARGEST_GOLD = 100_000
LARGEST_PROBLEM = 20_000
_PASSING = {"time-out", "worker died", "out of memory"}
"""Verdicts on the machine rather than on the answer: they are not remembered."""


def share_of_workers(workers: int, local_ranks: int) -> int:
    """Workers for each rank of a node that has `workers` in all: at least one, never fewer than the node's in sum."""
    return max(1, math.ceil(workers / max(1, local_ranks)))


def gold_text(gold: Any) -> Any:
    """A list of golds as its JSON text, which `verify.gold_list` says how to read; anything else as it is."""
    if isinstance(gold, (list, tuple)) and gold and all(isinstance(one, str) for one in gold):
        return json.dumps(list(gold))
    return gold


def _prepare(pair: Any) -> Pair | None:
    """(response, gold, problem) as it is sent; None where a part is no text. The gold may be a list of texts, and the problem
    may be missing or None."""
    if not isinstance(pair, (tuple, list)) or len(pair) not in (2, 3):
        return None
    response, gold, problem = pair if len(pair) == 3 else (*pair, "")
    gold = gold_text(gold)
    if not isinstance(response, str) or not isinstance(gold, str) or not isinstance(problem, str | None):
        return None
    return response[-TAIL_CHARACTERS:], gold[-LARGEST_GOLD:], (problem or "")[:LARGEST_PROBLEM]


class _Batch:
    """Results of one call, filled by several threads."""

    def __init__(self, count: int) -> None:
        self.grades: list[Grade | None] = [None] * count
        self.missing = count
        self.lock = threading.Lock()
        self.future: Future[list[Grade]] = Future()

    def put(self, places: list[list[int]], grades: list[Grade]) -> None:
        with self.lock:
            for where, grade in zip(places, grades, strict=True):
                for place in where:
                    self.grades[place] = grade
                    self.missing -= 1
            finished = self.missing == 0
        if finished and not self.future.done():
            self.future.set_result(self.grades)  # type: ignore[arg-type]

    def fail(self, error: BaseException) -> None:
        with self.lock:
            if not self.future.done():
                self.future.set_exception(error)


class VerifierPool:
    """Grades in `workers` processes, each killed and replaced when one answer takes longer than `timeout_s`.

    Usable from any thread; the order of results is the order of the pairs, and there is exactly one for each. At most
    a few chunks wait for each worker: a caller that submits faster than the workers grade is held back. Under torchrun
    each rank has its own pool over its own responses; `from_settings` gives it its share of the node's workers.

    Raises RuntimeError where worker processes cannot be started at all, and after `close`.
    """

    def __init__(
        self,
        workers: int = 2,
        timeout_s: float = 5.0,
        form: Form = "equal",
        *,
        memory_gib: float = 2.0,
        cache_size: int = 100_000,
        conventions: Conventions = DEFAULT,
    ) -> None:
        if workers < 1 or timeout_s <= 0:
            raise ValueError(f"workers must be at least 1 and timeout_s above 0, not {workers} and {timeout_s}")
        if form not in FORMS:
            raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
        self.workers = workers
        self.timeout_s = timeout_s
        self._pid = os.getpid()
        self._nursery = NurseryHandle({"memory_gib": memory_gib, "conventions": conventions.as_dict(), "form": form})
        self._jobs: queue.Queue[tuple[_Batch, list[list[int]], list[Pair], list[bytes]] | None] = queue.Queue(
            4 * workers
        )
        self._cache: OrderedDict[bytes, Grade] = OrderedDict()
        self._cache_size = cache_size
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._lock = threading.Lock()
        self._closed = False
        self._slots = [Slot(self._nursery, number, timeout_s) for number in range(workers)]
        self._threads = [
            threading.Thread(target=self._work, args=(slot,), name=f"verifier-{slot.number}", daemon=True)
            for slot in self._slots
        ]
        for thread in self._threads:
            thread.start()

    @classmethod
    def from_settings(cls, verify: Any, local_ranks: int | None = None) -> "VerifierPool":
        """The pool that `settings.verify` describes, for one of `local_ranks` ranks (LOCAL_WORLD_SIZE by default)."""
        ranks = local_ranks or int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return cls(
            share_of_workers(verify.workers, ranks),
            verify.timeout_s,
            verify.form,
            memory_gib=verify.memory_gib,
            cache_size=verify.cache_size,
            conventions=Conventions.from_settings(verify),
        )

    # ---- grading

    def grade_many(self, pairs: Sequence[Sequence[Any]]) -> list[Grade]:
        """One grade for each (response, gold) or (response, gold, problem), in order. A gold is a text or a list of texts."""
        return result_of(self.submit(pairs))

    def submit(self, pairs: Sequence[Sequence[Any]]) -> "Future[list[Grade]]":
        """`grade_many` that does not wait for the results (only, where the queue is full, for room in it)."""
        if self._closed:
            raise RuntimeError("the verifier pool is closed; make a new VerifierPool")
        pairs = list(pairs)
        batch = _Batch(len(pairs))
        if not pairs:
            batch.future.set_result([])
            return batch.future
        work: OrderedDict[bytes, tuple[Pair, list[int]]] = OrderedDict()
        ready: list[tuple[int, Grade]] = []
        for place, pair in enumerate(pairs):
            prepared = _prepare(pair)
            if prepared is None:
                ready.append((place, Grade(False, None, "not text", "pool")))
                continue
            key = _key(prepared)
            known = self._cached(key)
            if known is not None:
                ready.append((place, known))
            elif key in work:
                work[key][1].append(place)
                self._count("cache_hits")
            else:
                work[key] = (prepared, [place])
        self._count("graded", len(pairs))
        if ready:
            batch.put([[place] for place, _ in ready], [grade for _, grade in ready])
        keys = list(work)
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            self._jobs.put((batch, [work[k][1] for k in part], [work[k][0] for k in part], part))
        return batch.future

    def _work(self, slot: Slot) -> None:
        while (job := self._jobs.get()) is not None:
            batch, places, pairs, keys = job
            started = time.perf_counter()
            try:
                grades = slot.run(pairs)
                self._remember(keys, grades, time.perf_counter() - started)
                batch.put(places, grades)
            except BaseException as error:
                batch.fail(error)
        slot.close()

    # ---- cache and counts

    def _cached(self, key: bytes) -> Grade | None:
        with self._lock:
            grade = self._cache.get(key)
            if grade is not None:
                self._cache.move_to_end(key)
                self._counts["cache_hits"] += 1
            return grade

    def _remember(self, keys: list[bytes], grades: list[Grade], seconds: float) -> None:
        with self._lock:
            self._seconds += seconds
            for key, grade in zip(keys, grades, strict=True):
                self._counts[f"layer_{grade.layer}"] += 1
                if grade.unread:
                    self._counts[f"unread_{grade.unread}"] += 1
                self._counts["timeouts"] += grade.reason == "time-out"
                self._counts["deaths"] += grade.reason == "worker died"
                if self._cache_size and grade.reason not in _PASSING:
                    self._cache[key] = grade
            while len(self._cache) > self._cache_size:
                self._cache.popitem(last=False)

    def _count(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self._counts[name] += amount

    def metrics(self) -> dict[str, float]:
        """Totals since the pool was made: graded, cache_hits, timeouts, deaths, respawns, the workers' seconds, answers
        by the layer that decided (`layer_string`, ...) and by the layer that could not read them (`unread_extract`,
        `unread_grammar`, `unread_symbolic`)."""
        with self._lock:
            counts = dict(self._counts)
            seconds = self._seconds
        respawns = sum(slot.respawns for slot in self._slots)
        return {
            "graded": 0,
            "cache_hits": 0,
            "timeouts": 0,
            "deaths": 0,
            "unread_extract": 0,
            "unread_grammar": 0,
            "unread_symbolic": 0,
            **counts,
            "respawns": respawns,
            "seconds": seconds,
        }

    # ---- end

    def close(self) -> None:
        """Ends the workers. Waits for work under way; safe to call twice."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if os.getpid() != self._pid:  # a fork of the owner: the threads and processes are not ours
            return
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()
        self._nursery.close()

    def __enter__(self) -> "VerifierPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _key(pair: Pair) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for text in pair:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return digest.digest()
