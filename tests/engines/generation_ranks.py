"""The ranks of test_native_engine.py: the native engine against transformers on the same weights.

`transformers` scores the engine's responses in one padded forward. A greedy response equals that of its `generate` if
and only if each token is the arg-max there.
"""

import sys
from collections.abc import Callable
from dataclasses import replace

from tiny_models import FAMILIES, hf_model, hf_tensors, tiny_model

from megatron_patches import parallel
from megatron_patches.engines.native import NativeEngine
from megatron_patches.engines.native.collectives import PART_BYTES, Ranks
from megatron_patches.model.policy_model import build_chunks
from megatron_patches.model.weights import load_hf
from megatron_patches.training.policy import Policy

import pytest  # isort: skip
import torch  # isort: skip
import torch.distributed as dist  # isort: skip

from pipeline.common.errors import InputError, UsageError  # isort: skip
from pipeline.rl.experience import Samples  # isort: skip
from pipeline.rollout.interface import Groups, Prompt, Rollout, Sampling, begin  # isort: skip
from pipeline.settings import Layout, Model, Rollout as RolloutSettings, Settings  # isort: skip

GREEDY = Sampling(max_new_tokens=12, temperature=0)
MIXED = Sampling(max_new_tokens=16, temperature=0.8, top_p=0.9, top_k=30, stop_token_ids=(7, 8, 9, 10), seed=4)


def settings_of(model: Model, layout: Layout, **rollout) -> Settings:
    names = {f"{kind}_name": "test" for kind in ("model", "algo", "data", "cluster")}
    return Settings(stage="rl", name="test", model=model, layout=layout, rollout=RolloutSettings(**rollout), **names)


def prompts_of(count: int, longest: int, vocabulary: int) -> list[Prompt]:
    generator = torch.Generator().manual_seed(count)
    lengths = torch.randint(1, longest + 1, (count,), generator=generator).tolist()
    ids = [torch.randint(0, vocabulary, (n,), generator=generator).tolist() for n in lengths]
    return [Prompt(id=f"p{i}", token_ids=some, gold="") for i, some in enumerate(ids)]


def engine_of(hf, model: Model, layout: Layout, tokenizer=None, **rollout) -> NativeEngine:
    parallel.initialize(layout, seed=0)
    chunks = build_chunks(model, layout)
    load_hf(chunks, model, hf_tensors(hf).__getitem__)
    return NativeEngine(chunks, model, settings_of(model, layout, **rollout).rollout, tokenizer)


@torch.no_grad()
def reference(hf, rollouts: list[Rollout]) -> list[torch.Tensor]:
    """Computes each response's fp64 log-softmax rows [response, V] with transformers."""
    whole = [r.prompt.token_ids + r.token_ids for r in rollouts]
    ids = torch.zeros(len(whole), max(map(len, whole)), dtype=torch.int64)
    for row, tokens in enumerate(whole):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    logps = hf(ids).logits.double().log_softmax(-1)
    starts = [len(r.prompt.token_ids) - 1 for r in rollouts]
    return [logps[i, s : s + len(r.token_ids)] for i, (r, s) in enumerate(zip(rollouts, starts, strict=True))]


def flat(groups: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


def tokens_of(groups: list[list[Rollout]]) -> list[list[int]]:
    return [rollout.token_ids for rollout in flat(groups)]


def check_greedy(hf, engine: NativeEngine, prompts: list[Prompt]) -> None:
    rollouts = flat(engine.generate(prompts, 1, GREEDY))
    for rollout, logps in zip(rollouts, reference(hf, rollouts), strict=True):
        assert logps.argmax(-1).tolist() == rollout.token_ids
        expected = logps.amax(-1)
        torch.testing.assert_close(torch.tensor(rollout.raw_logps).double(), expected, rtol=0, atol=1e-5)
        assert rollout.logps == [0.0] * 12
        assert rollout.finish_reason == "length"


def check_sampling(hf, engine: NativeEngine, prompts: list[Prompt]) -> None:
    """Checks log-probs under the filtered distribution, in fp64 from transformers' logits, and the ends of
    responses."""
    rollouts = flat(engine.generate(prompts, 3, MIXED))
    assert {r.finish_reason for r in rollouts} == {"stop", "length"}
    for rollout, raw in zip(rollouts, reference(hf, rollouts), strict=True):
        tokens = torch.tensor(rollout.token_ids)
        torch.testing.assert_close(
            torch.tensor(rollout.raw_logps).double(), raw.gather(1, tokens[:, None])[:, 0], rtol=0, atol=1e-5
        )
        warm, order = (raw / MIXED.temperature).sort(-1, descending=True)
        probabilities = warm[:, : MIXED.top_k].softmax(-1)
        kept = probabilities * ((probabilities.cumsum(-1) - probabilities) < MIXED.top_p)
        kept = kept / kept.sum(-1, keepdim=True)
        rank = (order == tokens[:, None]).int().argmax(-1)
        expected = kept.gather(1, rank[:, None])[:, 0].log()
        torch.testing.assert_close(torch.tensor(rollout.logps).double(), expected, rtol=0, atol=2e-5)
        ends = [i for i, token in enumerate(rollout.token_ids) if token in MIXED.stop_token_ids]
        assert ends in ([], [len(rollout.token_ids) - 1])
        assert (rollout.finish_reason == "stop") == bool(ends)
        assert ends or len(rollout.token_ids) == MIXED.max_new_tokens


def check_independence(engine: NativeEngine, prompts: list[Prompt]) -> None:
    """Checks that a request's tokens do not depend on other requests, the batch's size and order, or the cache's
    size."""
    whole = engine.generate(prompts, 4, MIXED)
    for some in (prompts[:3], prompts[::-1], prompts[5:6]):
        places = [prompts.index(prompt) for prompt in some]
        assert tokens_of(engine.generate(some, 4, MIXED)) == tokens_of([whole[i] for i in places])
    assert tokens_of(engine.generate(prompts, 2, MIXED)) == tokens_of([group[:2] for group in whole])
    assert tokens_of(engine.generate(prompts[7:8], 1, MIXED)) == [whole[7][0].token_ids]  # alone
    rollout = engine.rollout
    per_token = engine.decoder.bytes_per_token() / 2**30
    engine.rollout = rollout.model_copy(update={"max_concurrent": 3, "kv_memory_gib": per_token * 400})
    engine.sleep()
    again = engine.generate(prompts, 4, MIXED)
    assert engine._cache is not None
    assert engine._cache.slots == 3
    assert tokens_of(again) == tokens_of(whole)
    engine.rollout = rollout
    engine.sync(None, engine.policy_version + 1)
    later = engine.generate(prompts, 4, MIXED)
    assert tokens_of(later) != tokens_of(whole)
    assert {r.policy_version for r in flat(later)} == {engine.policy_version}


def check_schedule(engine: NativeEngine, prompts: list[Prompt]) -> None:
    """Checks that a prompt is computed once for its whole group, and that no slot is empty while a request waits."""
    rollout, decoder = engine.rollout, engine.decoder
    engine.rollout = rollout.model_copy(update={"max_concurrent": 5})
    prefill, step = decoder.prefill, decoder.step
    prefilled, rows = [], []
    decoder.prefill = lambda ids: prefilled.append(len(ids)) or prefill(ids)  # type: ignore[method-assign]
    decoder.step = lambda tokens, *rest: rows.append(len(tokens)) or step(tokens, *rest)  # type: ignore[method-assign]
    made = tokens_of(engine.generate(prompts, 4, MIXED))
    del decoder.prefill, decoder.step
    engine.rollout = rollout
    mine = [0] * engine.replicas.count
    mine[engine.replicas.index] = sum(prefilled) * (engine.replicas.rank == 0)
    shares: list = [None] * dist.get_world_size()
    dist.all_gather_object(shares, mine)
    assert sum(map(sum, shares)) == len(prompts)
    if engine.replicas.count == 1:
        assert sum(rows) == sum(map(len, made))  # no step was spent on a row that had ended
    assert rows == sorted(rows, reverse=True)
    assert rows[0] == 5


def check_frequencies(hf, engine: NativeEngine, prompt: Prompt) -> None:
    """Compares first tokens with the exact distribution of transformers' logits, by chi-square."""
    draws, how = 6000, Sampling(max_new_tokens=1, temperature=1.3, seed=1)
    first = [tokens[0] for tokens in tokens_of(engine.generate([prompt], draws, how))]
    with torch.no_grad():
        expected = (hf(torch.tensor([prompt.token_ids])).logits[0, -1].double() / how.temperature).softmax(-1) * draws
    counts = torch.bincount(torch.tensor(first), minlength=len(expected)).double()
    often = expected >= 5
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    expected = torch.cat([expected[often], expected[~often].sum()[None]])
    chi_square = float(((observed - expected) ** 2 / expected.clamp(min=1e-9)).sum())
    freedom = len(expected) - 1
    assert freedom > 20
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def check_callbacks(engine: NativeEngine, prompts: list[Prompt]) -> None:
    """Checks that on_finish gets every rollout once in the world, and that progress ends at the total."""
    heard: list[tuple[str, int]] = []
    progress = []
    groups = engine.generate(
        prompts, 3, MIXED, on_finish=lambda r: heard.append((r.prompt.id, r.sample)), on_progress=progress.append
    )
    everywhere: list = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, (heard, [(p.rows_done, p.rows_total, p.tokens) for p in progress[-1:]]))
    assert sorted(key for some, _ in everywhere for key in some) == sorted(
        (r.prompt.id, r.sample) for r in flat(groups)
    )
    last = [report for _, reports in everywhere for report in reports]
    assert len(last) == engine.replicas.count
    assert sum(done for done, _, _ in last) == sum(total for _, total, _ in last) == 3 * len(prompts)
    assert sum(tokens for _, _, tokens in last) == sum(map(len, tokens_of(groups)))


class Letters:
    """A tokenizer with the methods that the engine uses: token i is one letter or a few."""

    pieces = [chr(97 + i) for i in range(26)] + ["<end>", "ab", "cde", "xyz"] + [f"[{i}]" for i in range(71)]

    def __len__(self) -> int:
        return len(self.pieces)

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(self.pieces[i] for i in ids if not (skip_special_tokens and self.pieces[i] == "<end>"))


def check_stop_strings(engine: NativeEngine, prompts: list[Prompt]) -> None:
    how = replace(
        MIXED, stop_token_ids=(), temperature=1.0, top_p=1.0, top_k=0, max_new_tokens=12, stop=("a", "1]", "z[")
    )
    rollouts = flat(engine.generate(prompts, 3, how))
    assert {r.finish_reason for r in rollouts} == {"stop", "length"}
    in_parts = advanced(engine, begin(prompts, 3), how, 2)[0]  # a string may begin in one round and end in the next
    assert [(r.token_ids, r.finish_reason, r.text) for r in flat(in_parts)] == [
        (r.token_ids, r.finish_reason, r.text) for r in rollouts
    ]
    for rollout in rollouts:
        whole = Letters().decode(rollout.token_ids, True)
        before = Letters().decode(rollout.token_ids[:-1], True)
        assert rollout.text == whole
        assert not any(stop in before for stop in how.stop)
        assert any(stop in whole for stop in how.stop) == (rollout.finish_reason == "stop")


def advanced(engine: NativeEngine, groups: Groups, how: Sampling, new_tokens: int) -> tuple[Groups, int, list[Rollout]]:
    """Advances until all responses have ended: the groups, the number of rounds, and what this rank's on_finish got."""
    rounds, heard = 0, list[Rollout]()
    while not all(rollout.is_finished for rollout in flat(groups)):
        groups = engine.advance(groups, how, new_tokens, on_finish=heard.append)
        rounds += 1
    return groups, rounds, heard


def check_parts(model: Model, hf, engine: NativeEngine, prompts: list[Prompt]) -> None:
    """Checks responses that are sampled in rounds. Under the same weights they are those of a single call. Over updates each
    token has the log-prob of the weights that sampled it, and no token is lost, sampled twice or changed."""
    whole = engine.generate(prompts, 3, MIXED)
    groups, rounds, heard = advanced(engine, begin(prompts, 3), MIXED, 5)
    assert rounds == 4  # of 16 tokens
    for found, expected in zip(flat(groups), flat(whole), strict=True):
        assert (found.token_ids, found.finish_reason, found.earlier) == (expected.token_ids, expected.finish_reason, [])
        torch.testing.assert_close(torch.tensor(found.logps), torch.tensor(expected.logps), rtol=0, atol=2e-5)
    everywhere: list = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, [(r.prompt.id, r.sample, r.token_ids) for r in heard])
    ended = [(r.prompt.id, r.sample, r.token_ids) for r in flat(whole)]
    assert sorted(one for some in everywhere for one in some) == sorted(ended)

    weights = [hf, *(hf_model(model, seed=seed) for seed in (9, 10))]
    first, groups = engine.policy_version + 1, begin(prompts, 3)
    for number in (0, 1, 1, 2, 2):
        load_hf([engine.decoder.chunk], model, hf_tensors(weights[number]).__getitem__)
        engine.sync(None, first + number)
        before, groups = groups, engine.advance(groups, MIXED, 4)
        for old, new in zip(flat(before), flat(groups), strict=True):
            made = len(old.token_ids)
            assert new.token_ids[:made] == old.token_ids
            assert new.logps[:made] == old.logps
            assert new.token_versions[:made] == old.token_versions
            assert len(new.token_ids) == made or not old.is_finished
    rollouts = flat(groups)
    assert {r.finish_reason for r in rollouts} == {"stop", "length"}
    assert max(len(r.earlier) for r in rollouts) == 2
    for number, other in enumerate(weights):
        for rollout, logps in zip(rollouts, reference(other, rollouts), strict=True):
            mine = torch.tensor(rollout.token_versions) == first + number
            raw = logps.gather(1, torch.tensor(rollout.token_ids)[:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(rollout.raw_logps)[mine].double(), raw[mine], rtol=0, atol=1e-5)
    load_hf([engine.decoder.chunk], model, hf_tensors(hf).__getitem__)
    engine.sync(None, first + 3)


def check_errors(engine: NativeEngine) -> None:
    def refuses(error: type[Exception], names: str, prompts: list[Prompt], sampling: Sampling, **changes) -> None:
        rollout = engine.rollout
        engine.rollout = rollout.model_copy(update=changes)
        with pytest.raises(error, match=names):
            engine.generate(prompts, 1, sampling)
        engine.rollout = rollout

    long = Prompt(id="long one", token_ids=[1] * 250, gold="")
    refuses(InputError, "long one.*rollout.max_prompt_tokens", [long], GREEDY, max_prompt_tokens=200)
    refuses(UsageError, "long one.*context of 256.*max_new_tokens to 6", [long], GREEDY)
    refuses(InputError, "'none' has no tokens", [replace(long, id="none", token_ids=[])], GREEDY)
    refuses(UsageError, "kv_memory_gib=1e-06", [replace(long, token_ids=[1] * 9)], GREEDY, kv_memory_gib=1e-6)
    refuses(UsageError, "max_new_tokens=0", [replace(long, token_ids=[1])], replace(GREEDY, max_new_tokens=0))


def check_new_weights(model: Model, hf, engine: NativeEngine, prompts: list[Prompt]) -> None:
    """Checks that the engine samples from weights that changed in place, with and without `sync`, although it had
    packed the old ones."""
    before = tokens_of(engine.generate(prompts, 1, GREEDY))
    other = hf_model(model, seed=9)
    load_hf([engine.decoder.chunk], model, hf_tensors(other).__getitem__)
    engine.sync(None, engine.policy_version)
    check_greedy(other, engine, prompts)
    load_hf([engine.decoder.chunk], model, hf_tensors(hf).__getitem__)
    assert tokens_of(engine.generate(prompts, 1, GREEDY)) == before


def check_bf16(layout: Layout) -> None:
    """Checks that with 16-bit weights the engine's log-probs equal the actor's, and those of the same weights in fp32,
    up to the rounding of 16-bit activations."""
    model = tiny_model("qwen3", dtype="bf16")
    hf = hf_model(model).bfloat16()
    parallel.initialize(layout, seed=0)
    settings = settings_of(model, layout)
    policy = Policy(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    load_hf(policy.chunks, model, hf_tensors(hf).__getitem__)
    how = replace(MIXED, stop_token_ids=(), temperature=1.0)
    groups = NativeEngine(policy.chunks, model, settings.rollout).generate(prompts_of(20, 20, 101), 2, how)
    rollouts = flat(groups)
    raw = torch.tensor([x for r in rollouts for x in r.raw_logps])
    wide = torch.cat(
        [
            logps.gather(1, torch.tensor(r.token_ids)[:, None])[:, 0]
            for r, logps in zip(rollouts, reference(hf.float(), rollouts), strict=True)
        ]
    )
    actor = policy.logprobs(Samples.collect(groups))
    for other in (actor, wide):
        gaps = raw.double() - other.double()
        assert 0 < float(gaps.abs().mean()) < 0.02
        assert abs(float(gaps.mean())) < 0.004  # no bias


def check_collectives() -> None:
    """Checks that shared memory gives the same sums and gathers as gloo, for every size of parts and order of arrival.
    `regroup` must give all columns of a part of the rows, and `together` the whole again."""
    group = dist.group.WORLD
    assert group is not None
    shared, plain = (Ranks(group, torch.device("cpu"), 60) for _ in range(2))
    assert shared._shared is not None
    plain._shared = None
    generator = torch.Generator().manual_seed(dist.get_rank())
    for step in range(60):
        rows = (1, 7, 300)[step % 3]
        x = torch.randn(rows, 33, generator=generator)
        if step % (2 + 3 * dist.get_rank()) == 0:
            torch.randn(400, 400) @ torch.randn(400, 400)  # the ranks fall out of step
        assert torch.equal(shared.sum(x.clone()), plain.sum(x.clone()))
        whole = plain.gather(x.half())
        assert torch.equal(shared.gather(x.half()), whole)
        mine = whole[shared.rows(rows)]  # of one row, the second rank has none
        for ranks in (shared, plain):
            assert torch.equal(ranks.regroup(x.half()), mine)
            assert torch.equal(ranks.together(mine, rows), whole)
    large = torch.ones(PART_BYTES // 4 + 1)
    assert not shared._shared.fits(large)
    assert torch.equal(shared.sum(large), torch.full_like(large, 2.0))


def check_pipeline_parallel(model: Model) -> None:
    parallel.initialize(Layout(pp=2), seed=0)
    chunks = build_chunks(model, Layout(pp=2))
    with pytest.raises(UsageError, match=r"layout.pp=2.*rollout.engine=vllm"):
        NativeEngine(chunks, model, settings_of(model, Layout(pp=2)).rollout)


def layouts_of(model: Model, size: int) -> list[Layout]:
    if size == 1:
        return [Layout()]
    found = [Layout(tp=2), Layout()]
    found += [Layout(tp=2, sp=True), Layout(cp=2)] if model.family in ("qwen2", "qwen3_moe") else []
    return found + ([Layout(ep=2), Layout(tp=2, ep=2)] if model.experts.count else [])


def main() -> None:
    parallel.initialize(Layout(), seed=0)
    size = dist.get_world_size()
    many, few = prompts_of(200, 40, 101), prompts_of(12, 30, 101)
    models = {family: tiny_model(family) for family in FAMILIES} | {
        "one kv head": tiny_model("qwen3", num_query_groups=1)
    }
    for name, model in models.items():
        hf = hf_model(model)
        tokens: dict[str, list[list[int]]] = {}
        for layout in layouts_of(model, size):
            engine = engine_of(hf, model, layout, max_concurrent=70)
            check_greedy(hf, engine, few if tokens else many)
            check_sampling(hf, engine, few)
            tokens[str(layout)] = tokens_of(engine.generate(few, 2, MIXED))
        assert len({str(found) for found in tokens.values()}) == 1, f"{name}: layouts sample differently"
    model = models["qwen2"]
    hf = hf_model(model)
    checks: list[Callable[[NativeEngine], None]] = [
        lambda engine: check_independence(engine, few),
        lambda engine: check_schedule(engine, few),
        lambda engine: check_frequencies(hf, engine, few[0]),
        lambda engine: check_callbacks(engine, few),
        lambda engine: check_stop_strings(engine, few),
        lambda engine: check_parts(model, hf, engine, few),
        lambda engine: check_new_weights(model, hf, engine, few),
        check_errors,
    ]
    for layout in [Layout()] if size == 1 else [Layout(tp=2), Layout()]:
        engine = engine_of(hf, model, layout, Letters())
        for check in checks:
            check(engine)
    check_bf16(Layout(tp=size))
    if size == 2:
        check_collectives()
        check_pipeline_parallel(model)
    parallel.finish()


if __name__ == "__main__":
    sys.exit(main())
