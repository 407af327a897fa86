"""Accuracy of sampled answers: avg@k, unbiased pass@k, and bootstrap intervals over problems.

pass@k is the chance that at least one of k samples is right. From n samples of which c are right, the unbiased
estimate is 1 - C(n - c, k) / C(n, k): the share of the k-subsets of what was sampled that hold a right one (Chen et
al., "Evaluating Large Language Models Trained on Code", arXiv 2107.03374, equation 1).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 2000
LEVEL = 0.95
BLOCK = 50
"""Resamples held in memory at once."""


def pass_at_k(samples: int, right: ArrayLike, k: int) -> NDArray[np.float64]:
    """Unbiased pass@k of each problem, fp64 of the shape of `right`.

    Args:
        samples: responses to each problem (n).
        right: how many of them are right (c), any shape, 0 <= c <= n.
        k: 1 <= k <= n.

    Raises:
        ValueError: k or a count is out of its range.
    """
    counts = np.asarray(right)
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} cannot be estimated from {samples} samples; 1 <= k <= {samples} is needed")
    if counts.size and (counts.min() < 0 or counts.max() > samples):
        raise ValueError(f"right answers must lie between 0 and {samples}; found {counts.min()} to {counts.max()}")
    # C(n-c, k) / C(n, k) as a product of k ratios: no large binomials, and exactly 0 as soon as n - c < k.
    wrong = (samples - counts).astype(np.float64)
    miss = np.ones(counts.shape)
    for i in range(k):
        miss = miss * np.maximum(wrong - i, 0.0) / (samples - i)
    return 1.0 - miss


def bootstrap_intervals(
    values: ArrayLike, resamples: int = RESAMPLES, seed: int = 0, level: float = LEVEL
) -> NDArray[np.float64]:
    """Percentile bootstrap intervals of means over problems.

    The problems are drawn again with replacement, the same ones for every column. The interval says how the result
    would vary with another set of problems of the same kind; it has no width where all problems have the same value.

    Args:
        values: [problems] or [problems, columns].
        resamples: how often the problems are drawn.
        seed: of the draws; equal seeds give equal intervals.
        level: share of the resampled means within the interval.

    Returns:
        fp64 [2] or [2, columns]: lower and upper ends.
    """
    table = np.asarray(values, dtype=np.float64)
    if not len(table):
        raise ValueError("there are no problems to draw from")
    problems, random = len(table), np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, BLOCK):
        draws = min(BLOCK, resamples - start)
        drawn = random.integers(0, problems, (draws, problems)) + problems * np.arange(draws)[:, None]
        # By how often each problem is drawn, not by copies of its row: [draws, problems] @ [problems, columns].
        times = np.bincount(drawn.reshape(-1), minlength=draws * problems).reshape(draws, problems)
        means.append(times @ table / problems)
    tail = (1 - level) / 2
    return np.quantile(np.concatenate(means), (tail, 1 - tail), axis=0)


def summarise(
    correct: ArrayLike,
    greedy: ArrayLike | None = None,
    majority: ArrayLike | None = None,
    *,
    bootstrap: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Any]:
    """Accuracy of one evaluation set.

    Args:
        correct: [problems, samples], true or 1 where a sampled response is right.
        greedy: [problems], the same for the greedy response; None to leave it out.
        majority: [problems], the chance that the most frequent answer of the samples is right; None to leave it out.
        bootstrap, seed, level: of the intervals: how often the problems are drawn, and as in `bootstrap_intervals`.

    Returns:
        `{"n", "k", "greedy", "avg@k", "pass@1", "pass@2", "pass@4", ..., "pass@k", "maj@k"}` and beside each figure its
        interval as `"<name>_ci": [low, high]`. pass@j is given for the powers of two up to the number of samples, and for it.

    Raises:
        ValueError: no problems, no samples, or entries other than 0 and 1.
    """
    table = np.asarray(correct, dtype=np.float64)
    if table.ndim != 2 or not table.size:
        raise ValueError(f"correct must be [problems, samples] and not empty; its shape is {table.shape}")
    problems, samples = table.shape
    columns: dict[str, NDArray[np.float64]] = {}
    if greedy is not None:
        columns["greedy"] = np.asarray(greedy, dtype=np.float64)
        if columns["greedy"].shape != (problems,):
            raise ValueError(f"greedy must be [{problems}] as correct has it; its shape is {columns['greedy'].shape}")
    for entries in (table, *columns.values()):
        if not np.isin(entries, (0.0, 1.0)).all():
            raise ValueError("entries must be 0 or 1 (false or true)")
    columns[f"avg@{samples}"] = table.mean(axis=1)
    right = table.sum(axis=1).astype(np.int64)
    for k in passes(samples):
        columns[f"pass@{k}"] = pass_at_k(samples, right, k)
    if majority is not None:
        columns[f"maj@{samples}"] = np.asarray(majority, dtype=np.float64)

    values = np.stack(list(columns.values()), axis=1)
    low, high = bootstrap_intervals(values, bootstrap, seed, level)
    summary: dict[str, Any] = {"n": problems, "k": samples}
    for i, name in enumerate(columns):
        summary[name] = float(values[:, i].mean())
        summary[f"{name}_ci"] = [float(low[i]), float(high[i])]
    return summary


def passes(samples: int) -> list[int]:
    """The powers of two below `samples`, and `samples`."""
    return [1 << i for i in range(samples.bit_length()) if 1 << i < samples] + [samples]


def response_shape(texts: Sequence[str], tokens: Sequence[int] | None = None) -> dict[str, float]:
    """How long responses are and how many answer directly, for the entry of an evaluation set.

    Args:
        texts: the responses.
        tokens: their lengths in tokens, where known.

    Returns:
        `direct_share` (of responses that are nothing but their final box), `characters_mean`, and with `tokens` also
        `response_tokens`, their mean.
    """
    if not texts:
        return {}
    shape = {
        "direct_share": sum(is_direct(text) for text in texts) / len(texts),
        "characters_mean": sum(map(len, texts)) / len(texts),
    }
    return shape | ({"response_tokens": sum(tokens) / len(tokens)} if tokens else {})


def is_direct(text: str) -> bool:
    r"""True if a response is its final `\boxed{...}` and nothing else but spaces, math delimiters and a full stop."""
    rest = text.strip().strip("$.").strip().removeprefix(r"\[").removesuffix(r"\]")
    rest = rest.removeprefix(r"\(").removesuffix(r"\)").strip()
    if not (rest.startswith(r"\boxed{") and rest.endswith("}")):
        return False
    depth = 0
    for i, character in enumerate(rest):
        depth += (character == "{") - (character == "}")
        if character == "}" and depth == 0:
            return i == len(rest) - 1
    return False


def is_accuracy(key: str) -> bool:
    """True for `greedy`, `avg@k`, `pass@k` and `maj@k` of a set's entry; not for their intervals."""
    name, at, k = key.partition("@")
    return key == "greedy" or (name in ("avg", "pass", "maj") and bool(at) and k.isdigit())
