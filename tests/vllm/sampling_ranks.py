"""The two ranks of test_sampling.py: vLLM's samples and their log-probs against fp64 transformers.

argv: the engine's TP, and its most sequences at once. Prints the largest difference and the tokens of one batch.
"""

import json
import sys
from dataclasses import replace

from letters import save_tokenizer, text_of
from tiny_models import hf_model, hf_tensors, tiny_model
from vllm_ranks import folder_of, prompts_of, settings_of

from megatron_patches import parallel
from megatron_patches.engines.vllm import VllmEngine
from megatron_patches.model.weights import load_hf
from megatron_patches.training.policy import Policy

import torch  # isort: skip

from pipeline.rollout.interface import Prompt, Rollout, Sampling  # isort: skip
from pipeline.settings import Layout  # isort: skip

MIXED = Sampling(max_new_tokens=12, temperature=0.7, top_p=0.8, top_k=5, seed=4)
FILTERS = [
    MIXED,
    replace(MIXED, top_p=1.0, top_k=0),
    replace(MIXED, temperature=1.0, top_k=0),
    replace(MIXED, temperature=1.0, top_p=1.0),
    replace(MIXED, temperature=1.3, top_p=0.9, top_k=20),
    replace(MIXED, temperature=1.0, top_p=1.0, top_k=0),
]


def flat(groups: list[list[Rollout]]) -> list[Rollout]:
    return [rollout for group in groups for rollout in group]


def tokens_of(groups: list[list[Rollout]]) -> list[list[int]]:
    return [rollout.token_ids for rollout in flat(groups)]


@torch.no_grad()
def logits_of(hf64, rollout: Rollout) -> torch.Tensor:
    """Computes the logits of each response token: fp64 [response, V]."""
    return hf64(torch.tensor([rollout.prompt.token_ids + rollout.token_ids])).logits[
        0, len(rollout.prompt.token_ids) - 1 : -1
    ]


def filtered(logits: torch.Tensor, how: Sampling) -> torch.Tensor:
    """Computes the contract's probabilities [N, V]: temperature, the k largest, then the smallest set that reaches
    p."""
    warm, order = (logits / how.temperature).sort(-1, descending=True)
    if how.top_k:
        warm[:, how.top_k :] = -torch.inf
    kept = warm.softmax(-1)
    kept = kept * ((kept.cumsum(-1) - kept) < how.top_p)
    return torch.zeros_like(kept).scatter(1, order, kept / kept.sum(-1, keepdim=True))


def check_logps(hf64, engine: VllmEngine, prompts: list[Prompt]) -> float:
    """Checks both log-probs of every sampled token under every filter; returns the largest difference."""
    worst = 0.0
    for how in FILTERS:
        for rollout in flat(engine.generate(prompts, 3, how)):
            logits, tokens = logits_of(hf64, rollout), torch.tensor(rollout.token_ids)[:, None]
            allowed = filtered(logits, how).gather(1, tokens)[:, 0]
            assert (allowed > 0).all(), f"{how}: {rollout} contains a token that the filters remove"
            for found, expected in (
                (rollout.logps, allowed.log()),
                (rollout.raw_logps, logits.log_softmax(-1).gather(1, tokens)[:, 0]),
            ):
                difference = float((torch.tensor(found).double() - expected).abs().max())
                worst = max(worst, difference)
                assert difference < 1e-5, f"{how}: {difference}"
    return worst


def check_greedy(hf64, engine: VllmEngine, prompts: list[Prompt]) -> None:
    for rollout in flat(engine.generate(prompts, 1, replace(MIXED, temperature=0.0, top_p=1.0, top_k=0))):
        logps = logits_of(hf64, rollout).log_softmax(-1)
        assert rollout.token_ids == logps.argmax(-1).tolist()
        assert rollout.logps == [0.0] * 12
        torch.testing.assert_close(torch.tensor(rollout.raw_logps).double(), logps.amax(-1), rtol=0, atol=1e-5)


def check_frequencies(hf64, engine: VllmEngine, prompt: Prompt) -> None:
    """Compares first tokens with the contract's distribution by chi-square, with a limit of 4 standard deviations."""
    draws, how = 2000, Sampling(max_new_tokens=1, temperature=0.7, top_p=0.9, top_k=30, seed=1)
    with torch.no_grad():
        expected = filtered(hf64(torch.tensor([prompt.token_ids])).logits[0, -1:], how)[0] * draws
    first = [tokens[0] for tokens in tokens_of(engine.generate([prompt], draws, how))]
    counts = torch.bincount(torch.tensor(first), minlength=len(expected)).double()
    kept = expected > 0
    assert counts[~kept].sum() == 0
    freedom = int(kept.sum()) - 1
    assert freedom > 10
    assert expected[kept].min() > 5
    assert float(((counts - expected)[kept] ** 2 / expected[kept]).sum()) < freedom + 4 * (2 * freedom) ** 0.5


def check_stop_tokens(engine: VllmEngine, prompts: list[Prompt]) -> None:
    """Checks that a stop token is a response's last and occurs nowhere else, even at the token limit."""
    how = replace(MIXED, temperature=1.0, top_p=1.0, top_k=0, stop_token_ids=tuple(range(20, 32)))
    for most in (12, 1):
        rollouts = flat(engine.generate(prompts, 8, replace(how, max_new_tokens=most)))
        assert {r.finish_reason for r in rollouts} == {"stop", "length"}
        for rollout in rollouts:
            ends = [i for i, token in enumerate(rollout.token_ids) if token in how.stop_token_ids]
            assert ends in ([], [len(rollout.token_ids) - 1])
            assert (rollout.finish_reason == "stop") == bool(ends)
            assert ends or len(rollout.token_ids) == most
            assert len(rollout.token_ids) == len(rollout.logps) == len(rollout.raw_logps)


def check_stop_strings(engine: VllmEngine, prompts: list[Prompt]) -> None:
    """Checks stop strings across tokens, within one, and with a special token; the token that completes one is kept."""
    stops = ("a", "1]", "3][", "z[", "<end>")
    how = replace(MIXED, temperature=1.0, top_p=1.0, top_k=0, stop=stops)
    for most in (12, 1):
        rollouts = flat(engine.generate(prompts, 8, replace(how, max_new_tokens=most)))
        assert {r.finish_reason for r in rollouts} == {"stop", "length"}
        for rollout in rollouts:
            whole, before = text_of(rollout.token_ids), text_of(rollout.token_ids[:-1])
            assert not any(stop in before for stop in stops)
            assert any(stop in whole for stop in stops) == (rollout.finish_reason == "stop")
            assert rollout.text == whole.replace("<end>", "")
            assert rollout.finish_reason == "stop" or len(rollout.token_ids) == most
            assert len(rollout.token_ids) == len(rollout.logps) == len(rollout.raw_logps)


def check_independence(engine: VllmEngine, policy: Policy, prompts: list[Prompt]) -> list[list[int]]:
    """Checks that a request's tokens depend only on its prompt's id, its number, the seed and the policy version;
    returns them."""
    how = replace(MIXED, top_p=0.95, top_k=40, stop_token_ids=tuple(range(6)))
    whole = engine.generate(prompts, 4, how)
    made = tokens_of(whole)
    assert len({tuple(tokens) for tokens in made}) == len(made)
    assert tokens_of(engine.generate(prompts, 4, how)) == made
    for some in (prompts[:3], prompts[::-1], prompts[5:6]):
        places = [prompts.index(prompt) for prompt in some]
        assert tokens_of(engine.generate(some, 4, how)) == tokens_of([whole[i] for i in places])
    assert tokens_of(engine.generate(prompts, 2, how)) == tokens_of([group[:2] for group in whole])
    renamed = [replace(prompt, id=f"other {prompt.id}") for prompt in prompts]
    assert tokens_of(engine.generate(renamed, 4, how)) != made
    assert tokens_of(engine.generate(prompts, 4, replace(how, seed=5))) != made
    engine.sync(policy, 1)
    later = engine.generate(prompts, 4, how)
    assert tokens_of(later) != made
    assert {r.policy_version for r in flat(later)} == {1}
    engine.sync(policy, 0)
    assert tokens_of(engine.generate(prompts, 4, how)) == made
    return made


def main() -> None:
    engine_tp, concurrent = map(int, sys.argv[1:])
    model, layout = tiny_model("qwen2", hidden_size=128, head_dim=32), Layout(tp=2, rollout_tp=engine_tp)
    folder = folder_of(model)
    tokenizer = save_tokenizer(folder)
    hf = hf_model(model)
    prompts = prompts_of(8, model.vocab_size)
    settings = settings_of(model, layout, max_concurrent=concurrent)
    parallel.initialize(layout, seed=0)
    policy = Policy(settings.model, settings.layout, settings.rl, settings.rollout.temperature)
    load_hf(policy.chunks, model, hf_tensors(hf).__getitem__)
    engine = VllmEngine(policy, settings.rollout, tokenizer, folder)
    engine.sync(policy, 0)
    hf64 = hf.double()
    worst = check_logps(hf64, engine, prompts)
    check_greedy(hf64, engine, prompts)
    if engine_tp == 1:
        check_frequencies(hf64, engine, prompts[0])
    check_stop_tokens(engine, prompts)
    check_stop_strings(engine, prompts)
    made = check_independence(engine, policy, prompts)
    print(json.dumps({"worst": worst, "tokens": made}))
    parallel.finish()


if __name__ == "__main__":
    main()
