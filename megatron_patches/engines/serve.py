"""The rollout engine of `rollout.mode=serve`: ordinary `vllm serve` processes, asked over HTTP."""

import atexit
import secrets
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch.distributed as dist

from megatron_patches.engines.main_rank import MainRank
from megatron_patches.engines.sync_check import SyncCheck
from megatron_patches.engines.vllm import MIB
from megatron_patches.model.weights.buckets import BucketSender
from megatron_patches.training.policy import Policy
from pipeline.common.errors import UsageError
from pipeline.rollout.gathering import Gathering, Response
from pipeline.rollout.interface import GenerationProgress, Groups, Rollout, RolloutEngine, Sampling
from pipeline.rollout.requests import check_requests, row_budget, sources_of
from pipeline.rollout.streams import request_key
from pipeline.rollout.vllm.core import POSITIVE, Timer, stream_of
from pipeline.rollout.vllm.serve.api import Sampled, Wanted
from pipeline.rollout.vllm.serve.fleet import Fleet, Request
from pipeline.rollout.vllm.serve.http import ServerError
from pipeline.rollout.vllm.serve.sending import Layout, joined
from pipeline.settings import Cluster
from pipeline.settings import Rollout as RolloutSettings
from pipeline.settings.published import tensor_shapes

ATTEMPTS = 3
"""How often weights are sent before no server that takes them is an error."""


class ServeEngine(RolloutEngine):
    """Asks the servers of `rollout.server_urls`.

    Rank 0 of the world talks with them. The other ranks help to gather the weights, and receive the rollouts. A lost server's
    requests go to the others; it gets the newest weights before it is asked again.
    """

    independent = True

    def __init__(self, policy: Policy, rollout: RolloutSettings, tokenizer: Any, cluster: Cluster):
        """Contacts nobody: the first `sync` meets the servers."""
        self.model, self.rollout, self.tokenizer = policy.model, rollout, tokenizer
        self.limit = row_budget(rollout, policy.model.max_position_embeddings)
        self.policy_version = 0
        self.main: MainRank[Fleet] = MainRank(cluster.collective_minutes)
        self.sender = BucketSender(policy.chunks, policy.model, int(rollout.sync_bucket_mib * MIB))
        self.check = SyncCheck(policy.model, rollout, self._score, self._checksums)
        self.layout: Layout | None = None
        self.name, self.syncs = secrets.token_hex(4), 0
        """Names of weights begin with this, so that no other trainer's are taken for them."""
        if dist.get_rank() == 0:
            wanted = Wanted("bfloat16" if policy.model.dtype == "bf16" else "float32", self.limit.tokens)
            longest, patience = cluster.collective_minutes * 60, cluster.timeout_minutes * 60
            self.main.peer = Fleet(rollout.server_urls, wanted, rollout.max_concurrent, longest, patience)
            atexit.register(self.main.peer.close)

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

        Where temperature, top-p or top-k change the distribution, a server gives no log-probs of the raw policy, and
        `raw_logps` are NaN; training refuses such settings.

        Raises, on every rank:
            ServerError: a server refuses a request, or none is left within `cluster.timeout_minutes`.
            InputError, UsageError: as `check_requests`; or stop strings without a tokenizer.
            RuntimeError: `sync` was not called.
        """
        check_requests(self.rollout, [group[0].prompt for group in groups], sampling, self.limit)
        if sampling.stop and self.tokenizer is None:
            raise UsageError(
                f"rollout.stop={list(sampling.stop)}: stop strings need a tokenizer, and the engine has none"
            )
        if not self.syncs:
            raise RuntimeError("the servers have no weights: call sync(actor, version) before generate")
        requests = self._requests(groups, sampling, new_tokens)
        gathering = Gathering(
            groups,
            sampling.max_new_tokens,
            self.policy_version,
            self.tokenizer,
            expected=len(requests),
            on_finish=on_finish,
            on_progress=on_progress if self.main.peer is not None else None,
            exchange=self.main.share if dist.get_world_size() > 1 else None,
        )

        def take(request: Request, sampled: Sampled) -> None:
            gathering.meter.add(len(sampled.token_ids))
            gathering.add(_response(request, sampled, sampling))

        # A call from another thread samples ahead while the actor learns: the weights that it samples from are gone.
        may_send = threading.current_thread() is threading.main_thread()

        def sample(fleet: Fleet) -> bool:
            """Whether all is done; False: the weights must be sent again."""
            nonlocal requests
            while requests := fleet.run(requests, sampling, take):
                if not fleet.wait(may_send):
                    return False
            return True

        while not self.main.call(sample):
            self._send()
        found = gathering.groups()
        self.check.remember(found)
        return found

    def _requests(self, groups: Groups, sampling: Sampling, new_tokens: int) -> list[Request]:
        return [
            Request(
                source.group,
                sample,
                source.token_ids,
                request_key(sampling.seed, stream_of(source), sample, self.policy_version) & POSITIVE,
                source.most,
            )
            for source in sources_of(groups, sampling, new_tokens)
            for sample in source.samples
        ]

    def sync(self, actor: Policy, policy_version: int) -> dict[str, float]:
        """Sends the weights to every server that answers, and checks them. Returns and raises as `VllmEngine.sync`, and
        raises as `advance`."""
        timer = Timer()
        self.policy_version, self.syncs = policy_version, self.syncs + 1
        count = self._send()
        metrics = {
            "seconds/sync": timer.lap(),
            "sync/gib": self.sender.sent_bytes / 2**30,
            "sync/servers": float(count),
        }
        while True:
            try:
                metrics |= self.check.compare(actor, policy_version)
                break
            except _NobodyLeftError:
                self._send()
        return metrics | {"seconds/sync_check": timer.lap()}

    @property
    def label(self) -> str:
        """Name of the weights of the last `sync`."""
        return f"{self.name}-{self.policy_version}-{self.syncs}"

    def _send(self) -> int:
        """Sends the actor's weights until at least one server has them. Returns how many have. A collective."""
        for _ in range(ATTEMPTS):
            needs_layout = self.main.call(_gather)
            if needs_layout and self.layout is None:
                # The order of whole tensors, which is that of every walk.
                shapes = tensor_shapes(self.model)
                self.layout = [(name, t.dtype, tuple(t.shape)) for name, t in joined(self.sender, shapes)]
            pieces = iter(self.sender)

            def send(fleet: Fleet, pieces: Iterable = pieces) -> int:
                fleet.send(pieces, self.label, self.layout or [])
                return len(fleet.ready)

            if count := self.main.call(send, pieces):
                return count
        raise ServerError(self.main.call(lambda fleet: f"no vLLM server takes the weights: {fleet.reasons()}"))

    def sleep(self) -> None:
        """Does nothing: the servers do not share memory with the actor."""

    def _score(self, sequences: list[list[int]]) -> list[list[list[float]]]:
        rows = self.main.call(lambda fleet: fleet.score(sequences))
        if not rows:
            raise _NobodyLeftError
        return rows

    def _checksums(self) -> list[Any]:
        return self.main.call(lambda fleet: fleet.checksums())


class _NobodyLeftError(Exception):
    """No server is left that holds the weights."""


def _gather(fleet: Fleet) -> bool:
    fleet.gather()
    return fleet.needs_layout


def _response(request: Request, sampled: Sampled, sampling: Sampling) -> Response:
    """The log-probs that a server gives are those of the distribution sampled from."""
    tokens, logps = sampled.token_ids, sampled.logps
    raw = logps if sampling.is_raw or sampling.temperature == 0 else [float("nan")] * len(tokens)
    if sampling.temperature == 0:
        logps = [0.0] * len(tokens)
    stopped = sampled.stopped or tokens[-1] in sampling.stop_token_ids
    return Response(request.group, request.sample, tokens, logps, raw, stopped)
