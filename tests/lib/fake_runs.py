"""A run folder with the files that the stages write, and numbers like those of the tiny preset."""

import json
import math
from pathlib import Path

import numpy as np

from pipeline.common.files import write_json, write_jsonl, write_text

PROBLEMS = (("3+4-2+6", 11), ("9-5+8", 12), ("7+7-3", 11), ("2+9+6-8+1", 10), ("8-8+5", 5), ("1+2+3+4", 10))


def solution(problem: str) -> str:
    """Writes a solution step by step, as in the warm-up rows."""
    terms = problem.replace("-", "+-").split("+")
    total, lines = int(terms[0]), []
    for term in terms[1:]:
        lines.append(f"{total}{int(term):+d}={total + int(term)}")
        total += int(term)
    return "\n".join([*lines, f"\\boxed{{{total}}}"])


def metrics_row(step: int, steps: int, random: np.random.Generator) -> dict:
    """Makes one step's metrics, under the names of a run with the native engine, and one of a plug-in's."""
    t = step / steps
    grown = 1 - math.exp(-4 * t)
    noise = lambda size: float(random.normal(0, size))  # noqa: E731
    reward = 0.38 + 0.52 * grown + noise(0.02)
    edges = [0.25 * 16 ** (i / 24) for i in range(25)]
    scales = np.clip(np.exp(random.normal(0.05 - 0.15 * t, 0.16, 192)), 0.25, 4)
    counts = np.histogram(scales, edges)[0].tolist()
    low, high = 0.004 + 0.008 * grown, 0.006 + 0.009 * grown
    row = {
        "step": step, "reward/mean": reward, "reward/pass@1": reward, "reward/pass@group": min(1.0, reward + 0.1),
        "reward/zero_variance_groups": 0.1 + 0.45 * grown + noise(0.03),
        "reward/all_right_groups": 0.02 + 0.5 * grown, "reward/all_wrong_groups": 0.08 * (1 - grown),
        "policy/entropy": 0.62 - 0.4 * grown + noise(0.01), "policy/loss": noise(0.01),
        "policy/live_tokens": 0.9 - 0.4 * grown, "policy/kl_old_k1": 0.002 + noise(2e-4),
        "policy/kl_old_k3": 0.003 * math.exp(noise(0.3)), "policy/kl_old_k3_median": 2e-5 * math.exp(noise(0.3)),
        "policy/ratio_mean": 1 + noise(0.002), "policy/ratio_median": 1.0, "policy/ratio_min": 0.1 * math.exp(noise(0.5)),
        "policy/ratio_max": 12 * math.exp(noise(0.8)), "policy/nonfinite_tokens": 0.0, "policy/clamped_tokens": 0.0,
        "clip/low": low + noise(0.001), "clip/high": high + noise(0.001), "clip/static_low": low * 1.1,
        "clip/static_high": high * 1.2 + noise(0.001), "clip/differs_from_static": 0.004 + noise(2e-4),
        "bounds/scale_mean": float(scales.mean()), "bounds/scale_min": float(scales.min()),
        "bounds/scale_max": float(scales.max()), "bounds/scale_at_min": 0.0, "bounds/scale_at_max": 0.0,
        "gap/checked_mean_exp": 1.0000002,
        "gap/mean": 2e-7 * math.exp(noise(0.2)), "gap/max": 4e-6 * math.exp(noise(0.4)), "gap/mean_exp": 1.0000002,
        "length/mean": 9 + 22 * grown + noise(0.6), "length/min": 4.0, "length/max": 38.0 + round(noise(3)),
        "length/truncated": max(0.0, 0.02 + noise(0.006)), "length/empty": 0.0,
        "verify/graded": 192.0, "verify/cache_hits": 90.0 + step % 5, "verify/timeouts": float(step % 30 == 0),
        "verify/deaths": 0.0, "verify/respawns": float(step % 30 == 0), "verify/seconds": 0.2,
        "verify/layer_string": 80.0 - step % 5, "verify/layer_number": 22.0, "verify/unread_extract": 3.0,
        "verify/unread_grammar": 1.0, "verify/unread_symbolic": 0.0,
        "verify/paid": round(192 * min(1.0, max(0.0, reward))), "verify/paid_unboxed": 0.02, "verify/paid_prose": 0.01,
        "verify/paid_other_form": 0.1,
        "rollout/groups": 24.0, "rollout/rounds": 1.0, "rollout/version_lag_mean": 0.0, "rollout/version_lag_max": 0.0,
        "optim/grad_norm": 0.6 * math.exp(noise(0.25)), "optim/lr": 1e-4 * min(1, step / 4) * (1 - t * 0.98),
        "optim/skipped": 0.0,
        "speed/generated_tokens": 6000.0,
        "speed/tokens_per_s": 6200 + noise(300), "speed/rollout_tokens_per_s": 9600 + noise(400),
        "seconds/generate": 0.45 + 0.15 * grown + abs(noise(0.03)), "seconds/grade": 0.04,
        "seconds/logprobs": 0.12, "seconds/update": 0.55 + 0.1 * grown + abs(noise(0.04)),
        "seconds/save": 0.7 if step % 20 == 0 else 0.0, "custom/kv_cache_mib": 12.0 + step % 3,
        "hist/scale": {"edges": edges, "counts": counts},
    }  # fmt: skip
    row["seconds/step"] = sum(value for name, value in row.items() if name.startswith("seconds/")) + 0.05
    for name, base in (("eps_low", 0.2), ("eps_high", 0.28)):
        for end in ("mean", "min", "max"):
            row[f"bounds/{name}_{end}"] = base * row[f"bounds/scale_{end}"]
        row[f"bounds/{name}_live_mean"] = base * (1.02 + noise(0.01))
        row[f"bounds/{name}_token_mean"] = base * (0.95 + noise(0.01))
    for i in range(5):
        label = f"{i / 5:.1f}-{(i + 1) / 5:.1f}"
        row[f"clip/low_pass_rate_{label}"] = low * (0.4 + 0.4 * i) + abs(noise(0.001))
        row[f"clip/high_pass_rate_{label}"] = high * (2 - 0.35 * i) + abs(noise(0.001))
    if step % 20 == 0:
        row |= {"eval/held_out/greedy": 0.45 + 0.52 * grown, "eval/held_out/avg@8": 0.4 + 0.5 * grown}
    return row


def write_run(root: Path, steps: int = 80, evaluated: tuple[str, ...] = ("before", "after"), seed: int = 0) -> Path:
    """Fills `root` (made if needed) and returns it."""
    random = np.random.default_rng(seed)
    write_jsonl(root / "metrics.jsonl", [metrics_row(step, steps, random) for step in range(1, steps + 1)])
    write_jsonl(root / "samples.jsonl", list(_samples(steps, random)))
    write_jsonl(root / "sft" / "metrics.jsonl", _warm_up(random))
    for when in evaluated:
        _evaluation(root, when, random)
    for stage, seconds in (("preprocess", 4.2), ("sft", 131.0), ("convert", 14.5), ("rl", 118.3), ("evaluate", 31.8)):
        write_json(root / stage / "manifest.json", {"stage": stage, "seconds": seconds, "outputs": {}})
    config = (
        "model_name: tiny\nname: tiny\nseed: 0\nalgo:\n  loss: etr\n  alpha: 0.25\n  beta: 0.25\n  eps_low: 0.2\n"
        f"  eps_high: 0.28\nrl:\n  steps: {steps}\n  prompts_per_step: 24\n  group_size: 8\n"
        "  optimizer:\n    lr: 0.0001\n"
    )
    write_text(root / "config.yaml", config)
    versions = {"python": "3.11.9", "torch": "2.13.0", "megatron-core": "0.16.1", "vllm": None}
    write_json(root / "environment.json", {"versions": versions, "revision": "0f3c9aa", "host": "box", "cpus": 2})
    return root


def _answer(problem: str, gold: int, skill: float, random: np.random.Generator) -> dict:
    direct = random.random() > 0.35 + 0.65 * skill
    right = random.random() < 0.35 + 0.6 * skill
    answer = gold if right else gold + int(random.integers(1, 4))
    text = f"\\boxed{{{answer}}}" if direct else solution(problem).replace(f"{{{gold}}}", f"{{{answer}}}")
    return {"text": text, "reward": float(right), "advantage": 0.9 if right else -1.1, "finish_reason": "stop",
            "extracted": str(answer)}  # fmt: skip


def _samples(steps: int, random: np.random.Generator):
    for step in range(1, steps + 1):
        for i in (step % len(PROBLEMS), (step + 1) % len(PROBLEMS)):
            problem, gold = PROBLEMS[i]
            responses = [_answer(problem, gold, 1 - math.exp(-4 * step / steps), random) for _ in range(4)]
            yield {"step": step, "prompt_id": f"train-{i}", "problem": problem, "gold": str(gold),
                   "responses": responses}  # fmt: skip


def _warm_up(random: np.random.Generator):
    for step in range(1, 121):
        yield {
            "step": step,
            "sft/loss": 2.6 * math.exp(-step / 30) + 0.35 + float(random.normal(0, 0.02)),
            "sft/lr": 2e-3,
        }


def _evaluation(root: Path, when: str, random: np.random.Generator) -> None:
    skill = {"before": 0.05}.get(when, 0.95)
    figures = {"greedy": 0.35 + 0.6 * skill, "avg@8": 0.33 + 0.55 * skill, "pass@1": 0.33 + 0.55 * skill,
               "pass@2": 0.52 + 0.45 * skill, "pass@4": 0.7 + 0.28 * skill, "pass@8": 0.86 + 0.135 * skill}  # fmt: skip
    entry: dict = {"n": 128, "k": 8}
    for name, value in figures.items():
        entry |= {name: value, f"{name}_ci": [value - 0.06 * (1.02 - value) ** 0.5, value + 0.05 * (1 - value) ** 0.5]}
    entry |= {"direct_share": 0.61 - 0.59 * skill, "response_tokens": 9.4 + 22 * skill, "truncated": 0.01}
    write_json(root / "evaluate" / f"{when}.json", {"checkpoint": "x", "sets": {"held_out": entry}, "seconds": 15.0})
    rows = [
        {"set": "held_out", "prompt_id": f"h{i}", "problem": problem, "gold": str(gold),
         "responses": [_answer(problem, gold, skill, random) | {"greedy": j == 0} for j in range(9)]}
        for i, (problem, gold) in enumerate(PROBLEMS)
    ]  # fmt: skip
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write_text(root / "evaluate" / f"{when}.samples.jsonl", text)
