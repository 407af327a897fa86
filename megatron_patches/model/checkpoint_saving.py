"""Saves: an iteration is written under a temporary name and renamed when every rank has finished.

Megatron plans a save and hands out the data (`async_sharded_save`). Upstream would then write it in a forked process, which
outlives a rank that is killed and shares its sockets (patch `writer`). Here the rank itself writes: at once, or in a thread
that ends with it, from a copy of the data, while training goes on.
"""

import gc
import math
import os
import queue
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy

from megatron_patches.model.checkpoint_folder import FIRST, LATEST, iteration_folder, iterations, sum_of, write_sums
from megatron_patches.model.checkpoint_state import DAMAGE, SHAPE_FIELDS, sharded_state, sharded_tensors
from megatron_patches.model.finite import anywhere, first_nonfinite, first_on_any_rank
from pipeline.common.errors import UserError
from pipeline.common.files import naming, read_json, write_json, write_text
from pipeline.settings import Model

BEST = "best.json"
"""The iteration that `best` keeps, and its score."""

Buckets = list[tuple[str, str, tuple[list, list]]]
"""Upstream's plan of one rank's files: path, name, and (entries of bytes, entries of tensors)."""


class NonFiniteError(UserError):
    """Weights or optimizer state hold NaN or infinity, so they are not saved."""


class Saver:
    """Saves iterations under `root`, one at a time. Every rank calls each method together.

    With `background`, `save` returns as soon as the data are copied. Threads write the files and, after a `poll` between them,
    give the iteration its name. Until then the iteration before it is the newest, so a kill costs the steps since that one.
    """

    def __init__(
        self, root: Path, model: Model, keep: int | None = None, keep_best: str | None = None, background: bool = False
    ):
        """`keep`: only that many newest iterations stay, and the one with the largest `keep_best`, the name of a score."""
        self.root, self.model, self.keep, self.keep_best, self.background = root, model, keep, keep_best, background
        self._running: _Save | None = None

    def save(
        self, iteration: int, chunks: list, *, optimizer: Any = None, common: dict, score: float | None = None
    ) -> None:
        """Saves one iteration; waits for the one before. `common` is small state that is the same on every rank. `score` is
        this iteration's value of `keep_best`; None if it is not known.

        Raises NonFiniteError on every rank if any rank's state is not finite, and OSError (disk full) if one rank failed;
        what was there before is untouched. An error of writing in the background comes from `poll` or `finish`.
        """
        self.finish()
        running = _Save(self, iteration, score)
        running.begin(chunks, optimizer, common)
        self._running = running
        if not self.background:
            self.finish()

    def poll(self) -> None:
        """Brings the running save on by what needs all ranks, where its threads have ended on all of them."""
        if self._running is not None and not anywhere(self._running.is_busy()):
            self._advance(self._running)

    def finish(self) -> None:
        """Waits until the running save, if there is one, is whole and has its name."""
        while self._running is not None:
            self._running.join()
            self._advance(self._running)

    def _advance(self, running: "_Save") -> None:
        self._running = None  # what fails is given up
        if not running.advance():
            self._running = running


class _Save:
    """One iteration on its way to the disk. Every rank writes its files; then all make it whole; then rank 0 gives it its name.
    The first and the last happen in a thread, if the saver works in the background."""

    def __init__(self, saver: Saver, iteration: int, score: float | None):
        self.saver, self.iteration, self.score = saver, iteration, score
        self.final = iteration_folder(saver.root, iteration)
        self.temporary = saver.root / f".{self.final.name}.writing"
        self.sums: dict[str, tuple[int, int]] = {}
        """Of the files that this rank wrote."""
        self.error: Exception | None = None
        """Why this rank could not write them, or name the iteration."""
        self.is_whole = False
        """Whether all files are there."""
        self.request: AsyncRequest | None = None
        self.thread: threading.Thread | None = None

    def begin(self, chunks: list, optimizer: Any, common: dict) -> None:
        """Plan, and write or begin to write."""
        if optimizer is not None:
            start_moments(optimizer)
        gc.freeze()  # upstream collects garbage in it, over all objects of the process: most of a small save's time
        try:
            state = sharded_state(chunks, optimizer, is_loading=False)
        finally:
            gc.unfreeze()
        _refuse_nonfinite(state, self.final)
        if dist.get_rank() == 0:
            shutil.rmtree(self.temporary, ignore_errors=True)
            self.temporary.mkdir(parents=True)
        dist.barrier()
        shape = {field: getattr(self.saver.model, field) for field in SHAPE_FIELDS}
        state |= {"common": common, "iteration": self.iteration, "shape": shape}
        # Upstream's queue for the writers' results starts a spawned manager process, which imports the entry script again
        # (seconds, and a hang without a __main__ guard). Here the rank itself writes and reads the results.
        filesystem_async._results_queue = queue.Queue()
        try:
            strategy = TorchDistSaveShardedStrategy("torch_dist", 1, thread_count=1)
            with naming(self.final):
                self.request = dist_checkpointing.save(state, str(self.temporary), strategy, async_sharded_save=True)
            assert self.request is not None
            buckets: Buckets = self.request.preload_fn() if self.request.preload_fn is not None else []
        except DAMAGE:
            self._give_up()
            raise
        if not self.saver.background:
            self._write(buckets)
            return
        self._start(self._write, self._copied(buckets))

    def is_busy(self) -> bool:
        """Whether this rank's thread is at work."""
        return self.thread is not None and self.thread.is_alive()

    def join(self) -> None:
        if self.thread is not None:
            self.thread.join()

    def advance(self) -> bool:
        """What follows once no rank's thread is at work. Returns whether the iteration has its name."""
        if self.is_whole:
            self._raise_what_any_rank_met()
            return True
        self._make_whole()
        if dist.get_rank() == 0 and self.saver.background:
            self._start(self._name)
        elif dist.get_rank() == 0:
            self._name()
        return False

    def _make_whole(self) -> None:
        """Adds what describes all ranks' files."""
        assert self.request is not None
        try:
            self._raise_what_any_rank_met()
            with naming(self.final):
                for finalize in self.request.finalize_fns:  # gathers results, writes .metadata
                    finalize()
                write_sums(self.temporary, self.sums)
        except DAMAGE:
            self._give_up()
            raise
        self.is_whole = True

    def _name(self) -> None:
        """Gives the iteration its name and rotates older ones out (rank 0). What goes wrong is kept, as by `_write`."""
        try:
            if self.final.exists():
                shutil.rmtree(self.final)
            if not (self.saver.root / LATEST).exists():
                write_text(self.saver.root / FIRST, str(self.iteration))
            self.temporary.rename(self.final)
            write_text(self.saver.root / LATEST, str(self.iteration))
            (self.saver.root / FIRST).unlink(missing_ok=True)
            _rotate(self.saver, self.iteration, self.score)
        except Exception as error:
            self.error = error

    def _start(self, work: Callable[..., None], *args: Any) -> None:
        self.thread = threading.Thread(target=work, args=args, name="checkpoint", daemon=True)
        self.thread.start()

    def _write(self, buckets: Buckets) -> None:
        """Writes this rank's files and their sums. What goes wrong is kept: `advance` raises it on all ranks."""
        assert self.request is not None
        if not buckets:
            return
        transforms, results = self.request.async_fn.args[0], self.request.async_fn_args[2]
        written: dict[int, list] = {}
        try:
            for number, bucket in enumerate(buckets):
                with naming(self.final / bucket[1]):
                    written[number] = _write_file(transforms, number, bucket)
                    self.sums[bucket[1]] = _synced_sum(Path(bucket[0]))
        except Exception as error:
            self.error = error
        else:
            results.put(written)

    def _raise_what_any_rank_met(self) -> None:
        """Raises the error of the lowest rank that could not write, on every rank (a collective). Upstream tells the first rank
        alone what it was, and the launcher may show the words of another one."""
        mine = None if self.error is None else (*self.error.args[:2], getattr(self.error, "filename", None))
        errors: list[tuple | None] = [None] * dist.get_world_size()
        dist.all_gather_object(errors, mine)
        met = next((error for error in errors if error is not None), None)
        if met is None:
            return
        *words, file = met
        is_system = len(words) == 2 and isinstance(words[0], int)
        with naming(file or self.final):
            raise OSError(*words) if is_system else RuntimeError(*map(str, words))

    def _copied(self, buckets: Buckets) -> Buckets:
        """The buckets without tensors that later updates change. What came from a GPU is a copy already."""
        assert self.request is not None
        live = {id(tensor) for _, _, (_, tensors) in self.request.async_fn_args[1] for _, tensor in tensors}
        return [
            (path, name, (objects, [(item, x.clone() if id(x) in live else x) for item, x in tensors]))
            for path, name, (objects, tensors) in buckets
        ]

    def _give_up(self) -> None:
        shutil.rmtree(self.temporary, ignore_errors=True)  # half of it would only fill the disk


def _write_file(transforms: list, number: int, bucket: tuple) -> list:
    """Upstream's writer of one file, called in this process; returns its results and raises its error. The file is not yet on
    the disk (`_synced_sum`)."""
    results: queue.Queue = queue.Queue()
    running: queue.Queue = queue.Queue()
    running.put(number)
    writer = filesystem_async.FileSystemWriterAsync.write_preloaded_data
    writer(transforms, number, bucket, results, running, use_fsync=False)
    _, found = results.get()
    if isinstance(found, Exception):
        raise found
    return found


def _synced_sum(path: Path) -> tuple[int, int]:
    """Size and sum of a file that was just written, made while the system brings it to the disk: that takes longer."""
    with open(path, "rb+") as file, ThreadPoolExecutor(1, "fsync") as pool:
        synced = pool.submit(os.fsync, file.fileno())
        total = sum_of(path)
        synced.result()
    return total


def start_moments(optimizer: Any) -> None:
    """Gives Adam the zero moments that it would make at its first step, where every step so far was skipped: Megatron's
    state dict expects them."""
    for inner in optimizer.chained_optimizers:
        if inner.optimizer is not None and inner.init_state_fn is not None:
            inner.init_state_fn(inner.optimizer, inner.config)
            for group in inner.optimizer.param_groups:
                group.setdefault("step", 0)


def _rotate(saver: Saver, iteration: int, score: float | None) -> None:
    """Deletes iterations beyond the newest ones, except the best."""
    kept = {iteration, _best(saver, iteration, score)}
    for old in iterations(saver.root)[: -saver.keep] if saver.keep else []:
        if old not in kept:
            shutil.rmtree(iteration_folder(saver.root, old), ignore_errors=True)


def _best(saver: Saver, iteration: int, score: float | None) -> int | None:
    """The iteration with the largest score so far, written down. One whose score is unknown or NaN is never it."""
    file = saver.root / BEST
    held = read_json(file) if file.exists() else {}
    if held.get("metric") != saver.keep_best or held.get("iteration") not in iterations(saver.root):
        held = {}
    if saver.keep_best is None or held.get("iteration") == iteration or score is None or not math.isfinite(score):
        return held.get("iteration")
    if not held or score > held["score"]:
        held = {"iteration": iteration, "metric": saver.keep_best, "score": score}
        write_json(file, held)
    return held["iteration"]


def _refuse_nonfinite(state: dict, folder: Path) -> None:
    """Raises NonFiniteError on all ranks if the state of any is not finite (a collective)."""
    found = first_nonfinite((name, tensor) for _, name, tensor in sharded_tensors(state) if tensor is not None)
    if anywhere(found is not None):
        rank, name = first_on_any_rank(found) or (0, "")
        raise NonFiniteError(
            f"{folder} is not saved: {name} on rank {rank} holds NaN or infinity. Earlier checkpoints are untouched. "
            "Continue from the newest with a smaller learning rate, or correct the loss."
        )
