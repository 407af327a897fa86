"""The standalone vLLM rollout engine: vLLM servers on other machines, commanded from the trainer."""

import atexit
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

import torch.distributed as dist

from megatron_patches import parallel
from megatron_patches.engines.main_rank import MainRank
from megatron_patches.engines.sync_check import SyncCheck
from megatron_patches.engines.vllm import MIB, options_of
from megatron_patches.model.weights.buckets import BucketSender
from megatron_patches.training.policy import Policy
from pipeline.common.errors import UsageError
from pipeline.rollout.gathering import Gathering, Response
from pipeline.rollout.interface import GenerationProgress, Groups, Rollout, RolloutEngine, Sampling
from pipeline.rollout.requests import check_requests, row_budget, shares_of, sources_of
from pipeline.rollout.vllm.core import Timer
from pipeline.rollout.vllm.link import Link, ServerError, ServerLostError, parse_address
from pipeline.settings import Cluster
from pipeline.settings import Rollout as RolloutSettings

T = TypeVar("T")


class StandaloneVllmEngine(RolloutEngine):
    """Commands `rollout.server_ranks` server ranks, in engines of `layout.rollout_tp`.

    Rank 0 of the world is connected to them. The other ranks help to gather the weights, and receive the rollouts. A call in
    which a server is lost is made again with those that come instead, `rollout.server_restarts` times.
    """

    independent = True

    def __init__(self, policy: Policy, rollout: RolloutSettings, tokenizer: Any, folder: str, cluster: Cluster):
        """Waits for the servers.

        Raises:
            UsageError: the address is not host:port, or the server ranks cannot be split into engines.
            InputError: not all servers came within `cluster.timeout_minutes`.
            ServerError: a server failed to build its engine.
        """
        model, layout = policy.model, policy.layout
        self.rollout, self.tokenizer = rollout, tokenizer
        self.limit = row_budget(rollout, model.max_position_embeddings)
        self.policy_version = 0
        parse_address(rollout.server_address)
        size = layout.engine_tp
        if rollout.server_ranks % size:
            raise UsageError(
                f"rollout.server_ranks={rollout.server_ranks} cannot be split into engines of layout.rollout_tp={size} "
                f"ranks; set a multiple of {size}"
            )
        self.engines = rollout.server_ranks // size
        self.main: MainRank[Link] = MainRank(cluster.collective_minutes)
        self.sender = BucketSender(policy.chunks, model, int(rollout.sync_bucket_mib * MIB))
        self.check = SyncCheck(model, rollout, self._score, self._checksums)
        self.options = options_of(model, rollout, folder, size, tokenizer is not None)
        self.restarts = rollout.server_restarts
        self.last_sync: Callable[[], dict[str, float]] | None = None
        """Brings servers that have just started to the weights of the others."""
        self.is_linked = False
        if dist.get_rank() == 0:
            self.is_linked = True
            self.main.peer = Link.open(
                rollout.server_address, 0, rollout.server_ranks + 1, parallel.device(), cluster.collective_minutes,
                patience_minutes=cluster.timeout_minutes,
            )  # fmt: skip
            atexit.register(self.close)
        self._build()

    def advance(
        self,
        groups: Groups,
        sampling: Sampling,
        new_tokens: int,
        *,
        on_finish: Callable[[Rollout], None] | None = None,
        on_progress: Callable[[GenerationProgress], None] | None = None,
    ) -> Groups:
        """Samples as `RolloutEngine.advance` says; only rank 0 calls `on_finish` and `on_progress`.

        Raises ServerError on every rank if a server fails, or is lost once too often.
        """
        check_requests(self.rollout, [group[0].prompt for group in groups], sampling, self.limit)
        return self._surviving(lambda: self._advance(groups, sampling, new_tokens, on_finish, on_progress))

    def _advance(
        self,
        groups: Groups,
        sampling: Sampling,
        new_tokens: int,
        on_finish: Callable[[Rollout], None] | None,
        on_progress: Callable[[GenerationProgress], None] | None,
    ) -> Groups:
        here, sources = self.main.peer is not None, sources_of(groups, sampling, new_tokens)
        gathering = Gathering(
            groups,
            sampling.max_new_tokens,
            self.policy_version,
            self.tokenizer,
            expected=sum(len(source.samples) for source in sources),
            on_finish=on_finish,
            on_progress=on_progress if here else None,
            exchange=self.main.share if dist.get_world_size() > 1 else None,
        )

        def receive(response: Response) -> None:
            gathering.meter.add(len(response.token_ids))
            gathering.add(response)

        self._do("generate", shares_of(sources, self.engines), sampling, self.policy_version, receive=receive)
        found = gathering.groups()
        self.check.remember(found)
        return found

    def sync(self, actor: Policy, policy_version: int) -> dict[str, float]:
        """Sends the weights and checks them. Returns and raises as `VllmEngine.sync`, and raises as `advance`."""
        self.last_sync = lambda: self._sync(actor, policy_version)
        return self._surviving(self.last_sync)

    def _sync(self, actor: Policy, policy_version: int) -> dict[str, float]:
        timer = Timer()
        pieces = iter(self.sender)

        def send(link: Link) -> list[Any]:
            link.tell(("sync",))
            for name, first, tensor in pieces:
                link.tell((name, first, tuple(tensor.shape), tensor.dtype))
                link.weights(tensor.contiguous())
            link.tell(None)
            return self._wait()

        self._on_main(send, pieces)
        self.policy_version = policy_version
        metrics = {"seconds/sync": timer.lap(), "sync/gib": self.sender.sent_bytes / 2**30}
        metrics |= self.check.compare(actor, policy_version)
        return metrics | {"seconds/sync_check": timer.lap()}

    def sleep(self) -> None:
        """Does nothing: the servers do not share memory with the actor."""

    def close(self) -> None:
        """Stops the servers. Calling it again does nothing."""
        linked, self.is_linked = self.is_linked, False
        if self.main.peer is not None:
            self.main.peer.close()
            if linked:
                with suppress(ServerError):
                    self.main.peer.tell(("stop",))

    def _surviving(self, call: Callable[[], T]) -> T:
        """Makes `call`, again if a server is lost in it and others come. A collective.

        The same requests have the same random streams, so that the repeated call samples what the first would have. A call
        from another thread samples ahead while the actor learns: its weights are gone, so that it cannot be repeated.
        """
        lost = False
        while True:
            try:
                if lost:
                    self._build()
                    if self.last_sync is not None and call is not self.last_sync:
                        self.last_sync()
                return call()
            except ServerLostError as error:
                if not self.restarts or threading.current_thread() is not threading.main_thread():
                    raise ServerLostError(
                        f"{error}, then this stage, which continues from its last checkpoint"
                    ) from error
                lost, self.restarts = True, self.restarts - 1
                if self.main.peer is not None:
                    print(f"WARNING: {error}; this run waits for them, and then repeats the call", flush=True)

    def _build(self) -> None:
        """Has the servers build their engines, after connecting to them if they are new."""
        if self.main.peer is not None and not self.is_linked:
            self.main.peer.connect()
            self.is_linked = True
        self._do("build", self.options)

    def _do(self, *command: Any, receive: Callable[[Any], None] | None = None) -> list[Any]:
        """Sends a command and waits. Returns the servers' results on every rank."""

        def talk(link: Link) -> list[Any]:
            link.tell(command)
            return self._wait(receive)

        return self._on_main(talk)

    def _on_main(self, talk: Callable[[Link], list[Any]], pieces: Iterable[Any] = ()) -> list[Any]:
        """Has rank 0 talk with the servers, as `MainRank.call` says."""

        def guarded(link: Link) -> list[Any]:
            try:
                return talk(link)
            except ServerError:
                self.is_linked = False  # so that `close` does not speak to servers that may not listen any more
                raise

        return self.main.call(guarded, pieces)

    def _wait(self, receive: Callable[[Any], None] | None = None) -> list[Any]:
        """Waits until every server rank is done. Returns their results by rank; other answers go to `receive`."""
        assert self.main.peer is not None
        results: dict[int, Any] = {}
        for rank, kind, content in self.main.peer.hear():
            if kind == "result":
                results[rank] = content
            elif receive is not None:
                receive(content)
        return [results[rank] for rank in sorted(results)]

    def _score(self, sequences: list[list[int]]) -> list[list[list[float]]]:
        return self._do("score", sequences)

    def _checksums(self) -> list[Any]:
        return self._do("checksums")
