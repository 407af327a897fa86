"""The embedded problems: chains of one-digit terms whose running total stays in 0..19, and worked examples of them.

A problem reads `3+5-2+4=`. A response either works it out, `3+5=8;8-2=6;6+4=10;\\boxed{10}`, or answers at once,
`\\boxed{10}`. A small model learns the steps easily and the direct answer hardly at all; RL then learns to prefer the steps.
"""

import random
from dataclasses import dataclass

from pipeline.settings import Arithmetic
from pipeline.settings.data import LARGEST_TOTAL

Row = dict[str, str]


@dataclass(frozen=True)
class ArithmeticData:
    """Problem rows `{"id", "problem", "answer", "source"}` and warm-up rows `{"id", "problem", "response", "source"}`."""

    train: list[Row]
    held_out: list[Row]
    sft: list[Row]
    sft_mixed: list[Row]


def generate(settings: Arithmetic, seed: int) -> ArithmeticData:
    """All rows, the same for the same arguments. Held-out problems occur in nothing else."""
    rng = random.Random(f"arithmetic {seed}")
    chains = _distinct(settings, rng, settings.train + settings.held_out)
    rng.shuffle(chains)
    held_out, train = chains[: settings.held_out], chains[settings.held_out :]
    return ArithmeticData(
        train=[_problem(chain, f"train-{i}") for i, chain in enumerate(train)],
        held_out=[_problem(chain, f"held-out-{i}") for i, chain in enumerate(held_out)],
        sft=_worked(train, settings.sft_rows, settings.direct_share, 0.0, "sft", rng),
        sft_mixed=_worked(
            train, settings.sft_mixed_rows, settings.mixed_direct_share, settings.slip_share, "mixed", rng
        ),
    )


def totals(chain: list[int]) -> list[int]:
    """Running totals of the signed terms, the first term included."""
    sums, total = [], 0
    for term in chain:
        total += term
        sums.append(total)
    return sums


def problem_text(chain: list[int]) -> str:
    """`3+5-2=`."""
    return str(chain[0]) + "".join(f"{term:+d}" for term in chain[1:]) + "="


def step_text(chain: list[int], slip_share: float = 0.0, rng: random.Random | None = None) -> str:
    """The worked response. A slip makes one step's result wrong by 1 to 3; later steps go on from it."""
    steps, total = [], chain[0]
    for term in chain[1:]:
        result = total + term
        if rng is not None and rng.random() < slip_share:
            wrong = [r for r in range(result - 3, result + 4) if r != result and 0 <= r <= LARGEST_TOTAL]
            result = rng.choice(wrong) if wrong else result  # after earlier slips all of them may be out of range
        # After a slip a total may leave the range that the tokens and the model know.
        result = min(max(result, 0), LARGEST_TOTAL)
        steps.append(f"{total}{term:+d}={result};")
        total = result
    return "".join(steps) + direct_text(total)


def direct_text(answer: int) -> str:
    return f"\\boxed{{{answer}}}"


def _distinct(settings: Arithmetic, rng: random.Random, count: int) -> list[list[int]]:
    """`count` different chains, lengths as even as short chains allow (only 135 have two terms)."""
    found: dict[str, list[int]] = {}
    misses = 0
    while len(found) < count:
        chain = _chain(rng, rng.randint(settings.min_terms, settings.max_terms))
        text = problem_text(chain)
        misses = misses + 1 if text in found else 0
        if misses > 10_000:
            raise ValueError(
                f"data.arithmetic: there are few more than {len(found)} different problems of {settings.min_terms} to "
                f"{settings.max_terms} terms, and {count} are wanted. Raise max_terms or lower train"
            )
        found[text] = chain
    return list(found.values())


def _chain(rng: random.Random, terms: int) -> list[int]:
    chain = [rng.randint(0, 9)]
    total = chain[0]
    while len(chain) < terms:
        term = rng.randint(1, 9) * rng.choice((1, -1))
        if 0 <= total + term <= LARGEST_TOTAL:
            chain.append(term)
            total += term
    return chain


def _problem(chain: list[int], name: str) -> Row:
    return {
        "id": f"arithmetic-{name}",
        "problem": problem_text(chain),
        "answer": str(sum(chain)),
        "source": "arithmetic",
    }


def _worked(
    chains: list[list[int]], count: int, direct_share: float, slip_share: float, name: str, rng: random.Random
) -> list[Row]:
    rows = []
    for i in range(count):
        chain = rng.choice(chains)
        response = direct_text(sum(chain)) if rng.random() < direct_share else step_text(chain, slip_share, rng)
        rows.append({"id": f"{name}-{i}", "problem": problem_text(chain), "response": response, "source": "arithmetic"})
    return rows
