"""The trainer's side of a weight transfer to one server, and the spreading of one walk over the weights to several.

Each server has a connection of its own, so that a lost one spoils only its own.
"""

import hmac
import queue
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol

import torch

from pipeline.rollout.vllm.loading import Piece
from pipeline.rollout.vllm.serve import wire
from pipeline.rollout.vllm.serve.api import Api, Facts
from pipeline.rollout.vllm.serve.http import LostError

Layout = list[tuple[str, torch.dtype, tuple[int, ...]]]
"""Name, dtype and shape of every whole tensor, in the order in which a walk completes them."""


class Sender(Protocol):
    """The transfer to one server."""

    def send(self, pieces: Iterator[Piece], label: str) -> None:
        """Sends all weights, and names them `label`. Raises LostError."""

    def close(self) -> None: ...


def open_sender(api: Api, facts: Facts, layout: Layout) -> Sender:
    """Connects the server's workers with this process. Raises LostError, and ServerError or UsageError if it cannot be."""
    if facts.backend == wire.BACKEND:
        return TcpSender(api, facts.workers)
    return NcclSender(api, facts.workers, layout)


class TcpSender:
    """Sends pieces as they come, over one TCP connection to each worker."""

    def __init__(self, api: Api, workers: int):
        self.api, self.streams = api, list[socket.socket]()
        token, host = secrets.token_hex(16), api.http.own_address()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as listener, ThreadPoolExecutor(1) as beside:
            info = {"host": host, "port": listener.getsockname()[1], "token": token, "timeout_s": api.http.seconds}
            joined = beside.submit(api.init_transfer, {"info": info})
            listener.settimeout(0.5)
            while len(self.streams) < workers and not (joined.done() and joined.exception()):
                with suppress(TimeoutError):
                    self._admit(listener.accept()[0], token)
            joined.result()

    def _admit(self, stream: socket.socket, token: str) -> None:
        """Keeps a connection that shows the token, and closes any other."""
        stream.settimeout(self.api.http.seconds)
        try:
            shown = wire.read_header(stream).get("token")
        except OSError:
            shown = None
        if isinstance(shown, str) and hmac.compare_digest(shown, token):
            self.streams.append(stream)
        else:
            stream.close()

    def send(self, pieces: Iterator[Piece], label: str) -> None:
        self.api.start_update()
        with ThreadPoolExecutor(1) as beside:
            received = beside.submit(self.api.update, {})
            try:
                for piece in pieces:
                    wire.send_piece(self.streams, piece)
                wire.send_end(self.streams)
            except OSError as error:
                self.close()
                received.result()  # says more, if the server failed itself
                raise LostError(f"the weight transfer: {error}") from error
            received.result()
        self.api.finish_update(label)

    def close(self) -> None:
        for stream in self.streams:
            stream.close()


class NcclSender:
    """Sends whole tensors through vLLM's own class, which packs them and broadcasts over NCCL."""

    def __init__(self, api: Api, workers: int, layout: Layout):
        from pipeline.rollout.vllm.serve.weight_api import NcclSender as Inner

        self.layout, self.calls = layout, _Calls(api)
        self.pieces: Iterator[Piece] = iter(())
        host = api.http.own_address()
        self.inner = Inner(self.calls, host, _free_port(host), workers, self._tensors, layout)

    def send(self, pieces: Iterator[Piece], label: str) -> None:
        self.pieces, self.calls.label = pieces, label
        self.inner.send()

    def _tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        shapes = {name: shape for name, _, shape in self.layout}
        return joined(self.pieces, shapes)

    def close(self) -> None:
        self.inner.close()


class _Calls:
    """The routes under the names of vLLM's `VLLMWeightSyncClient`."""

    def __init__(self, api: Api):
        self.api, self.label = api, ""
        self.init_weight_transfer_engine = api.init_transfer
        self.start_weight_update = api.start_update
        self.update_weights = api.update

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self.api.finish_update(self.label)


def _free_port(host: str) -> int:
    with socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        return probe.getsockname()[1]


def joined(pieces: Iterable[Piece], shapes: dict[str, tuple[int, ...]]) -> Iterator[tuple[str, torch.Tensor]]:
    """Whole tensors out of pieces, each in memory of its own, when its last row has come."""
    open_: dict[str, tuple[torch.Tensor, int]] = {}
    for name, first, rows in pieces:
        if first is None:
            yield name, rows.clone()
            continue
        whole, missing = open_.pop(name, (rows.new_empty(shapes[name]), shapes[name][0]))
        whole[first : first + rows.shape[0]] = rows
        missing -= rows.shape[0]
        if missing:
            open_[name] = (whole, missing)
        else:
            yield name, whole


def spread(pieces: Iterable[Piece], takers: list[Callable[[Iterator[Piece]], None]]) -> list[Exception | None]:
    """Gives every piece to all takers, each in a thread of its own, and asks for the next when all are done with it: the
    memory of a piece is used again. Goes to the end, also when no taker is left. Returns how each taker failed."""
    taps = [_Tap() for _ in takers]
    if not takers:
        for _ in pieces:
            pass
        return []
    with ThreadPoolExecutor(len(takers)) as threads:
        ends = [threads.submit(tap.run, taker) for tap, taker in zip(taps, takers, strict=True)]
        end: Piece | BaseException | None = None
        try:
            for piece in pieces:
                for tap in taps:
                    tap.give(piece)
                for tap in taps:
                    tap.wait()
        except BaseException as error:
            end = error  # or the takers would give out what they have as all of it
            raise
        finally:
            for tap in taps:
                tap.give(end)
    return [_failure(end) for end in ends]


def _failure(end: "Future[None]") -> Exception | None:
    error = end.exception()
    if error is not None and not isinstance(error, Exception):
        raise error
    return error


class _Tap:
    """What one taker has of the walk: one piece at a time."""

    def __init__(self) -> None:
        self.pieces: queue.SimpleQueue[Piece | BaseException | None] = queue.SimpleQueue()
        self.done = threading.Semaphore(0)
        self.is_over = False

    def give(self, piece: Piece | BaseException | None) -> None:
        self.pieces.put(piece)

    def wait(self) -> None:
        """Until the taker is done with the piece, or has ended."""
        if not self.is_over:
            self.done.acquire()

    def run(self, taker: Callable[[Iterator[Piece]], Any]) -> None:
        try:
            taker(self._each())
        finally:
            self.is_over = True
            self.done.release()

    def _each(self) -> Iterator[Piece]:
        while (piece := self.pieces.get()) is not None:
            if isinstance(piece, BaseException):
                raise LostError(f"the walk over the weights failed: {piece}")
            yield piece
            self.done.release()
