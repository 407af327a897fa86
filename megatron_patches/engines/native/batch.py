"""Continuous batching: rows of different lengths decode together, and a new row gets the slot of one that ended.

The state of all rows is in a few tensors, of which the first R columns are live. A step is a fixed number of tensor
operations. Python handles single rows only when they begin or end.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch

from megatron_patches.engines.native.cache import Cache
from megatron_patches.engines.native.decoder import Decoder
from megatron_patches.engines.native.expert_record import ExpertRecord
from megatron_patches.engines.native.sampler import sample, uniforms
from megatron_patches.engines.native.stopping import StopStrings
from pipeline.rollout.gathering import Response
from pipeline.rollout.interface import Sampling
from pipeline.rollout.requests import Source
from pipeline.rollout.streams import request_key

TOKEN, POSITION, CURSOR, LEFT = range(4)
"""Rows of the state tensor: newest token, its position, index of the next token in the records, tokens left."""


@dataclass(frozen=True)
class Request:
    """One response to sample, or to continue."""

    source: Source
    """What it continues."""
    sample: int
    row: int
    """Of the source, in the stash."""


class DecodeBatch:
    """Samples the responses of `sources`, at most `slots` at once, which `cache` has room for."""

    def __init__(
        self,
        decoder: Decoder,
        cache: Cache,
        slots: int,
        sources: list[Source],
        sampling: Sampling,
        policy_version: int,
        prefill_tokens: int,
        stop_strings: StopStrings | None,
        experts: ExpertRecord | None = None,
    ):
        self.decoder, self.cache, self.sampling = decoder, cache, sampling
        self.policy_version, self.prefill_tokens, self.stop_strings = policy_version, prefill_tokens, stop_strings
        self.device = decoder.device
        # Longest first: sources of similar length are prefilled together, and the last to start are short.
        self.waiting = deque(sorted(sources, key=lambda source: -len(source.token_ids)))
        self.ready: deque[Request] = deque()
        """Requests whose source is prefilled."""
        self.stash = torch.empty(0)
        self.rows = 0
        self.longest = 0
        self.slots = slots
        self.most = most = max(source.most for source in sources)
        """Width of the records: most new tokens of a response."""
        self.state = torch.zeros((4, slots), dtype=torch.int64, device=self.device)
        self.one_token = torch.tensor([[1], [1], [-1]], device=self.device)
        """Added per token to position, cursor and tokens left."""
        self.requests: list[Request] = []
        self.records: list[int] = []
        """For each live row, its line in the record tensors. Lines do not move when rows do."""
        self.free_records = list(range(slots - 1, -1, -1))
        self.tokens = torch.zeros((slots, most), dtype=torch.int64, device=self.device)
        self.logps = torch.zeros((2, slots, most), device=self.device)
        self.uniforms = torch.zeros((slots, most), dtype=torch.float64, device=self.device)
        self.stop_ids = torch.tensor(sampling.stop_token_ids, dtype=torch.int64, device=self.device)
        self.experts = experts
        if experts is not None:
            experts.begin(most)

    def run(self, on_finish: Callable[[Response], None], on_step: Callable[[int], None]) -> None:
        """Decodes until every request has ended. `on_step` gets the number of tokens of each step."""
        while True:
            self._admit()
            if not self.rows:
                return
            ended = self._step()
            on_step(self.rows)
            if ended is not None:
                for finished in self._remove(ended):
                    on_finish(finished)

    # Beginning -------------------------------------------------------------------------------------------------------

    def _admit(self) -> None:
        """Fills free slots with requests, and prefills prompts when none is ready."""
        while self.rows < self.slots and (self.ready or self.waiting):
            if not self.ready:
                self._prefill()
            count = min(self.slots - self.rows, len(self.ready))
            self._begin([self.ready.popleft() for _ in range(count)])
        if not self.ready and not self.waiting:
            self.stash = torch.empty(0)

    def _prefill(self) -> None:
        """Computes keys and values of the next sources, once each, for as many as the token budget allows."""
        longest = max(len(self.waiting[0].token_ids) - 1, 1)
        count = min(len(self.waiting), max(1, self.prefill_tokens // longest))
        chosen = [self.waiting.popleft() for _ in range(count)]
        ids = torch.zeros((count, longest), dtype=torch.int64)
        for row, source in enumerate(chosen):
            ids[row, : len(source.token_ids) - 1] = torch.tensor(source.token_ids[:-1], dtype=torch.int64)
            self.ready += [Request(source, sample, row) for sample in source.samples]
        self.stash = self.decoder.prefill(ids.to(self.device))
        if self.experts is not None:
            self.experts.prefilled(chosen, longest)

    def _begin(self, starting: list[Request]) -> None:
        """Appends rows. The source's last token is not in the cache yet: the first step feeds it and samples."""
        sources = [request.source for request in starting]
        where = slice(self.rows, self.rows + len(starting))
        self.cache.append(
            self.rows, self.stash, torch.tensor([request.row for request in starting], device=self.device)
        )
        records = [self.free_records.pop() for _ in starting]
        begin = [[s.token_ids[-1] for s in sources], [len(s.token_ids) - 1 for s in sources]]
        begin += [[record * self.most for record in records], [s.most for s in sources]]
        self.state[:, where] = torch.tensor(begin, device=self.device)
        if self.sampling.temperature > 0:
            seed, version = self.sampling.seed, self.policy_version
            keys = [request_key(seed, request.source.stream, request.sample, version) for request in starting]
            # Token i of a response takes number i of its stream, also where this round begins in its middle.
            self.uniforms[records] = uniforms(
                torch.tensor(keys, dtype=torch.int64, device=self.device), self.most,
                torch.tensor([s.begun for s in sources], dtype=torch.int64, device=self.device),
            )  # fmt: skip
        self.requests += starting
        self.records += records
        self.longest = max(self.longest, *(len(s.token_ids) for s in sources))
        self.rows += len(starting)

    # One token for every row -----------------------------------------------------------------------------------------

    def _step(self) -> list[int] | None:
        """Decodes one token for every row. Returns the rows that ended, or None."""
        token, position, cursor, left = self.state[:, : self.rows]
        logits = self.decoder.step(token, position, self.cache, self.longest)
        mine = self.decoder.ranks.rows(self.rows)
        own = sample(logits, self.uniforms.view(-1)[cursor[mine]], self.sampling)
        chosen = self.decoder.together(own, self.rows)
        tokens = chosen.tokens
        if self.experts is not None:
            self.experts.stepped(cursor)
        self.tokens.view(-1).index_copy_(0, cursor, tokens)
        self.logps[0].view(-1).index_copy_(0, cursor, chosen.logps)
        if chosen.raw_logps is not chosen.logps:
            self.logps[1].view(-1).index_copy_(0, cursor, chosen.raw_logps)
        token.copy_(tokens)
        self.state[POSITION:, : self.rows] += self.one_token
        self.longest += 1
        stops = (tokens[:, None] == self.stop_ids).any(-1)
        # tolist() is the only device synchronisation of a step. nonzero() would add another, for the size of its
        # result.
        ended = [row for row, over in enumerate((stops | (left == 0)).tolist()) if over]
        if self.stop_strings is not None:
            ended = sorted({*ended, *self._ended_by_string(tokens)})
        return ended or None

    def _ended_by_string(self, tokens: torch.Tensor) -> list[int]:
        """Returns the rows whose newest token completes a stop string."""
        assert self.stop_strings is not None
        found = []
        for row in self.stop_strings.candidates(tokens):
            made = self.requests[row].source.most - int(self.state[LEFT, row])
            if self._string_at(row, made):
                found.append(row)
        return found

    def _string_at(self, row: int, made: int) -> bool:
        """Whether a stop string ends the row's response, of which this round made `made` tokens."""
        if self.stop_strings is None:
            return False
        source, window = self.requests[row].source, self.stop_strings.window
        new = self.tokens[self.records[row], max(0, made - window) : made].tolist()
        before = source.token_ids[len(source.token_ids) - source.begun :]
        return self.stop_strings.ends((before + new)[-window:])

    # Ending ----------------------------------------------------------------------------------------------------------

    def _remove(self, ended: list[int]) -> list[Response]:
        """Removes ended rows and returns their responses; the last rows move into the gaps."""
        records = [self.records[row] for row in ended]
        limits = [self.requests[row].source.most for row in ended]
        made = [limit - left for limit, left in zip(limits, self.state[LEFT, ended].tolist(), strict=True)]
        last = self.state[TOKEN, ended].tolist()
        most = max(made)
        tokens = self.tokens[records, :most].tolist()
        logps = self.logps[:, records, :most].tolist()
        raw = logps[0 if self.sampling.is_raw else 1]
        stop_ids = set(self.sampling.stop_token_ids)
        finished = []
        for i, row in enumerate(ended):
            n = made[i]
            # A row can reach its token limit with a stop token: its finish reason is then "stop".
            stopped = n < limits[i] or last[i] in stop_ids or self._string_at(row, n)
            request = self.requests[row]
            experts = None if self.experts is None else self.experts.of(request.source, records[i], n)
            finished.append(
                Response(
                    request.source.group, request.sample, tokens[i][:n], logps[0][i][:n], raw[i][:n], stopped, experts
                )
            )
        self.free_records += records
        self._close_gaps(ended)
        return finished

    def _close_gaps(self, ended: list[int]) -> None:
        """Moves the last live rows into the slots of ended rows, so that live rows stay at the front."""
        left = self.rows - len(ended)
        gone = set(ended)
        targets = [row for row in ended if row < left]
        sources = [row for row in range(left, self.rows) if row not in gone]
        if targets:
            source, target = (torch.tensor(rows, device=self.device) for rows in (sources, targets))
            self.cache.move(source, target, self.longest)
            self.state[:, target] = self.state[:, source]
            for to, row in zip(targets, sources, strict=True):
                self.requests[to], self.records[to] = self.requests[row], self.records[row]
        del self.requests[left:], self.records[left:]
        self.rows = left
        self.longest = int(self.state[POSITION, :left].max()) + 1 if left else 0
