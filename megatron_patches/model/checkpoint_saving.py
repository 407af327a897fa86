"""Saves: an iteration is written under a temporary name and renamed when every rank has finished.

Megatron plans a save and hands out the data (`async_sharded_save`). Upstream would then write it in a forked process, which
outlives a rank that is killed and shares its sockets (patch `writer`). Here the rank itself writes: at once, or in a thread
that ends with it, from a copy of the data, while training goes on.
"""

import errno
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
from megatron.core.dist_checkpointing.core import CheckpointingConfig, save_config
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.async_utils import AsyncRequest
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from torch.distributed.checkpoint.metadata import Metadata
from torch.distributed.checkpoint.storage import WriteResult
from torch.utils import serialization

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
Written = tuple[list[WriteResult], dict[str, tuple[int, int]]]
"""What one rank wrote: where each tensor lies, for `.metadata`, and the sums of its files."""


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
        """`keep`: only that many newest iterations stay, and the one with the largest `keep_best`, the name of a score.

        Raises NotADirectoryError if there is a file at `root`: now, and not at the first save.
        """
        if root.exists() and not root.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
        self.root, self.model, self.keep, self.keep_best, self.background = root, model, keep, keep_best, background
        self.is_validated = False
        """Whether upstream has checked, in an earlier save, that the ranks' shards make whole tensors. It gathers the shapes of
        all shards for this, which stay the same as long as the process lives."""
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


class _Strategy(TorchDistSaveShardedStrategy):
    """Upstream's strategy, which also keeps what rank 0 needs for `.metadata`. Upstream writes that file in a function that
    every rank calls and waits in (dist_checkpointing/strategies/state_dict_saver.py:210, serialization.py:420)."""

    writer: filesystem_async.FileSystemWriterAsync
    metadata: Metadata | None = None
    """None on all ranks but rank 0."""

    def _get_save_and_finalize_callbacks(self, writer, save_state_dict_ret) -> AsyncRequest:
        self.writer, self.metadata, _ = save_state_dict_ret
        return super()._get_save_and_finalize_callbacks(writer, save_state_dict_ret)


class _Save:
    """The save of one iteration. Each rank writes its own files and sends rank 0 a list of them. Rank 0 then writes .metadata
    and the checksums, and renames the folder. If the saver works in the background, each of the two steps runs in a thread."""

    def __init__(self, saver: Saver, iteration: int, score: float | None):
        self.saver, self.iteration, self.score = saver, iteration, score
        self.final = iteration_folder(saver.root, iteration)
        self.temporary = saver.root / f".{self.final.name}.writing"
        self.strategy = _Strategy("torch_dist", 1, thread_count=1)
        self.written: Written = ([], {})
        """By this rank."""
        self.error: Exception | None = None
        """Why this rank could not write its files, or rank 0 not complete the iteration."""
        self.is_written = False
        """Whether all ranks' files are there."""
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
            with naming(self.final):
                self.request = dist_checkpointing.save(
                    state,
                    str(self.temporary),
                    self.strategy,
                    validate_access_integrity=not self.saver.is_validated,
                    async_sharded_save=True,
                )
            self.saver.is_validated = True
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
        """What follows once no rank's thread is at work. Returns whether the iteration is complete and has its name."""
        try:
            self._raise_what_any_rank_met()
        except DAMAGE:
            self._give_up()
            raise
        if self.is_written:
            return True
        parts = [self.written] * dist.get_world_size() if dist.get_rank() == 0 else None
        dist.gather_object(self.written, parts)
        self.is_written = True
        if parts is not None and self.saver.background:
            self._start(self._complete, parts)
        elif parts is not None:
            self._complete(parts)
        return False

    def _complete(self, parts: list[Written]) -> None:
        """Adds the files that describe those of all ranks, gives the iteration its name and rotates older ones out (rank 0).
        What goes wrong is kept, as by `_write`."""
        try:
            with naming(self.final):
                assert self.strategy.metadata is not None
                self.strategy.writer.finish(self.strategy.metadata, [results for results, _ in parts])
                save_config(CheckpointingConfig(self.strategy.backend, self.strategy.version), str(self.temporary))
                write_sums(self.temporary, {name: total for _, sums in parts for name, total in sums.items()})
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
        transforms, (results, sums) = self.request.async_fn.args[0], self.written
        try:
            for number, bucket in enumerate(buckets):
                with naming(self.final / bucket[1]):
                    results += _write_file(transforms, number, bucket)
                    sums[bucket[1]] = _synced_sum(Path(bucket[0]))
        except Exception as error:
            self.error = error

    def _raise_what_any_rank_met(self) -> None:
        """Raises the error of the lowest rank that could not write, on every rank (a collective). Upstream tells the first rank
        alone what it was, and the launcher may show the words of another one."""
        if not anywhere(self.error is not None):
            return
        mine = None if self.error is None else (*self.error.args[:2], getattr(self.error, "filename", None))
        errors: list[tuple | None] = [None] * dist.get_world_size()
        dist.all_gather_object(errors, mine)
        *words, file = next(error for error in errors if error is not None)
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
    the disk (`_synced_sum`). torch's archives get no CRC-32 of their own: it takes half of the write, and the file has one."""
    results: queue.Queue = queue.Queue()
    running: queue.Queue = queue.Queue()
    running.put(number)
    writer = filesystem_async.FileSystemWriterAsync.write_preloaded_data
    with serialization.config.patch({"save.compute_crc32": False}):  # type: ignore[attr-defined]
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
