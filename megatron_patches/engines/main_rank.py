"""What rank 0 alone is connected to, for all ranks: it makes a call, and every rank has the result or the error."""

from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Generic, TypeVar

import torch.distributed as dist

from pipeline.common.errors import UserError

Peer = TypeVar("Peer")
Result = TypeVar("Result")


class MainRank(Generic[Peer]):
    """Rank 0's connection to servers. Every rank calls each method together."""

    def __init__(self, timeout_minutes: float):
        """`timeout_minutes`: how long the other ranks wait for rank 0."""
        self.group = dist.new_group(backend="gloo", timeout=timedelta(minutes=timeout_minutes))
        """Its own group, because the actor uses others at the same time."""
        self.peer: Peer | None = None
        """The connection, of rank 0."""

    def share(self, mine: Any) -> list[Any]:
        """Broadcasts rank 0's `mine`; returns a list of it alone."""
        box = [mine]
        if dist.get_world_size() > 1:
            dist.broadcast_object_list(box, src=0, group=self.group)
        return box

    def call(self, talk: Callable[[Peer], Result], pieces: Iterable[Any] = ()) -> Result:
        """Has rank 0 call `talk`. Every rank returns its result, or raises its UserError.

        Every rank goes through `pieces` to the end, rank 0 also after an error: to gather one is a collective.
        """
        outcome: Any = None
        if self.peer is not None:
            try:
                outcome = talk(self.peer)
            except UserError as error:
                outcome = error
        for _ in pieces:
            pass
        outcome = self.share(outcome)[0]
        if isinstance(outcome, UserError):
            raise outcome
        return outcome
