"""The standalone vLLM rollout engine: vLLM servers on other machines, commanded from the trainer."""

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist

from megatron_patches import parallel
from megatron_patches.engines.sync_check import SyncCheck
from megatron_patches.engines.vllm import MIB, options_of
from megatron_patches.model.weights.buckets import BucketSender
from megatron_patches.training.policy import Policy
from pipeline.common.errors import UsageError
from pipeline.rollout.gathering import Gathering, Response
from pipeline.rollout.interface import GenerationProgress, Prompt, Rollout, Sampling
from pipeline.rollout.requests import check_requests, row_budget, shares_of
from pipeline.rollout.vllm.core import Request, Timer
from pipeline.rollout.vllm.link import Link, ServerError, parse_address
from pipeline.settings import Rollout as RolloutSettings


class StandaloneVllmEngine:
    """Commands `rollout.server_ranks` server ranks, in engines of `layout.rollout_tp`.

    Rank 0 of the world is connected to them. The other ranks help to gather the weights, and receive the rollouts.
    """

    independent = True

    def __init__(self, policy: Policy, rollout: RolloutSettings, tokenizer: Any, folder: str, timeout_minutes: float):
        """Waits for the servers.

        Raises:
            UsageError: the address is not host:port, or the server ranks cannot be split into engines.
            InputError: not all servers came within `timeout_minutes`.
            ServerError: a server failed to build its engine.
        """
        model, layout = policy.model, policy.layout
        self.rollout, self.tokenizer = rollout, tokenizer
        self.limit = row_budget(rollout, model.max_position_embeddings)
        self.policy_version = 0
        parse_address(rollout.server_address)
        size = layout.rollout_tp or layout.tp
        if rollout.server_ranks % size:
            raise UsageError(
                f"rollout.server_ranks={rollout.server_ranks} cannot be split into engines of layout.rollout_tp={size} "
                f"ranks; set a multiple of {size}"
            )
        self.engines = rollout.server_ranks // size
        self.group = dist.new_group(backend="gloo")
        """Broadcasts the rollouts to the other ranks. Its own group, because the actor uses others at the same time."""
        self.sender = BucketSender(policy.chunks, model, int(rollout.sync_bucket_mib * MIB))
        self.check = SyncCheck(model, rollout, self._score, self._checksums)
        self.link: Link | None = None
        if dist.get_rank() == 0:
            self.link = Link.open(
                rollout.server_address, 0, rollout.server_ranks + 1, parallel.device(), timeout_minutes
            )
            atexit.register(self.close)
        self._do("build", options_of(model, rollout, folder, size, tokenizer is not None))

    def generate(
        self,
        prompts: list[Prompt],
        group_size: int,
        sampling: Sampling,
        *,
        on_finish: Callable[[Rollout], None] | None = None,
        on_progress: Callable[[GenerationProgress], None] | None = None,
    ) -> list[list[Rollout]]:
        """Samples as `RolloutEngine.generate` says; only rank 0 calls `on_finish` and `on_progress`.

        Raises ServerError if a server fails or is lost.
        """
        check_requests(self.rollout, prompts, sampling, self.limit)
        here = self.link is not None
        gathering = Gathering(
            prompts,
            group_size,
            self.policy_version,
            self.tokenizer,
            expected=len(prompts) * group_size,
            on_finish=on_finish,
            on_progress=on_progress if here else None,
            exchange=self._from_main if dist.get_world_size() > 1 else None,
        )

        def receive(response: Response) -> None:
            gathering.meter.add(len(response.token_ids))
            gathering.add(response)

        shares = [
            [Request(i, prompts[i].stream, prompts[i].token_ids) for i in share]
            for share in shares_of(prompts, sampling, self.engines)
        ]
        self._do("generate", shares, group_size, sampling, self.policy_version, receive=receive)
        groups = gathering.groups()
        self.check.remember(groups)
        return groups

    def _from_main(self, mine: Any) -> list[Any]:
        """Broadcasts rank 0's `mine`; returns a list of it alone."""
        box = [mine]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box

    def sync(self, actor: Policy, policy_version: int) -> dict[str, float]:
        """Sends the weights and checks them. Returns and raises as `VllmEngine.sync`; also ServerError if a server is
        lost."""
        timer = Timer()
        with self._losing():
            if self.link is not None:
                self.link.tell(("sync",))
            for name, first, tensor in self.sender:
                if self.link is not None:
                    self.link.tell((name, first, tuple(tensor.shape), tensor.dtype))
                    self.link.weights(tensor.contiguous())
            if self.link is not None:
                self.link.tell(None)
                self._wait()
        self.policy_version = policy_version
        metrics = {"seconds/sync": timer.lap(), "sync/gib": self.sender.sent_bytes / 2**30}
        metrics |= self.check.compare(actor, policy_version)
        return metrics | {"seconds/sync_check": timer.lap()}

    def sleep(self) -> None:
        """Does nothing: the servers do not share memory with the actor."""

    def close(self) -> None:
        """Stops the servers. Calling it again does nothing."""
        link, self.link = self.link, None
        if link is not None:
            with suppress(ServerError):
                link.tell(("stop",))

    def _do(self, *command: Any, receive: Callable[[Any], None] | None = None) -> list[Any]:
        """Sends a command and waits. Returns the servers' results on rank 0, and an empty list on others."""
        if self.link is None:
            return []
        with self._losing():
            self.link.tell(command)
            return self._wait(receive)

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Drops the link if a server is lost, so that `close` does not wait for servers that may not listen any
        more."""
        try:
            yield
        except ServerError:
            self.link = None
            raise

    def _wait(self, receive: Callable[[Any], None] | None = None) -> list[Any]:
        """Waits until every server rank is done. Returns their results by rank; other answers go to `receive`."""
        assert self.link is not None
        results: dict[int, Any] = {}
        for rank, kind, content in self.link.hear():
            if kind == "result":
                results[rank] = content
            elif receive is not None:
                receive(content)
        return [results[rank] for rank in sorted(results)]

    def _everywhere(self, results: list[Any]) -> list[Any]:
        """Broadcasts rank 0's results."""
        box: list[Any] = [results]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def _score(self, sequences: list[list[int]]) -> list[list[list[float]]]:
        return self._everywhere(self._do("score", sequences))

    def _checksums(self) -> list[Any]:
        return self._everywhere(self._do("checksums"))
