"""Responses to measure with, made from a seed: worked solutions as models write them, right and wrong ones."""

import random
from collections.abc import Callable

Pair = tuple[str, str]
"""(response, gold)."""

_NAMES = ("Ana", "Ben", "Chloe", "Dev", "Ella", "Farid")
_THINGS = ("apples", "marbles", "stickers", "dollars", "pages", "eggs")


def gsm8k_like(count: int, seed: int = 0) -> list[Pair]:
    """Word problems worked in a few sentences; the answer after `####`, in a box or after `The answer is`."""
    rng = random.Random(seed)
    return [_story(rng) for _ in range(count)]


def _story(rng: random.Random) -> Pair:
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    lines, total = [], rng.randint(2, 90)
    for _ in range(rng.randint(2, 5)):
        step = rng.randint(2, 40)
        before, total = total, total + step if rng.random() < 0.6 else total * step
        sign = "+" if before + step == total else "*"
        lines.append(f"{name} then has {before} {sign} {step} = <<{before}{sign}{step}={total}>>{total} {thing}.")
    said = total if rng.random() < 0.6 else total + rng.choice((-1, 1, 10))
    shown = f"{said:,}" if rng.random() < 0.3 else f"{said}"
    endings = (
        f"#### {shown}",
        f"The answer is {shown}.",
        f"The answer is {shown} {thing}.",
        rf"So the final answer is $\boxed{{{shown}}}$.",
        f"**Final Answer:** {shown}.00",
    )
    return "\n".join([*lines, rng.choice(endings)]), str(total)


def math_like(count: int, seed: int = 1) -> list[Pair]:
    r"""Derivations of about a thousand characters that end in a `\boxed{}`. The kinds are weighted about as the answers
    of MATH are: three in four are plain numbers and fractions, one in ten needs algebra, one in a hundred sympy."""
    rng = random.Random(seed)
    makers = [maker for maker, weight in _KINDS.items() for _ in range(weight)]
    rows = []
    for _ in range(count):
        right, gold, wrong = rng.choice(makers)(rng)
        answer = right if rng.random() < 0.6 else wrong
        rows.append((rf"{_derivation(rng)} Therefore, the answer is $\boxed{{{answer}}}$.", gold))
    return rows


def _derivation(rng: random.Random) -> str:
    steps = [
        rf"We have $x^2 - {rng.randint(2, 99)}x + {rng.randint(2, 99)} = 0$, so that $x = \frac{{{rng.randint(2, 99)}}}{{2}}$.",
        rf"Substituting gives \[f({rng.randint(1, 9)}) = \sqrt{{{rng.randint(2, 99)}}} + {rng.randint(2, 99)}.\]",
        "Since the two triangles are similar, their sides are in proportion, and the ratio is fixed by the first two.",
        rf"By Vieta's formulas the sum of the roots is ${rng.randint(2, 99)}$ and their product is ${rng.randint(2, 99)}$.",
        "We check that this case leads to a contradiction, which leaves only the other one to consider.",
    ]
    return "\n\n".join(rng.choice(steps) for _ in range(rng.randint(6, 14)))


Made = tuple[str, str, str]
"""(a right answer, the gold, a wrong answer)."""


def _integer(rng: random.Random) -> Made:
    n = rng.randint(-200, 5000)
    return str(n), str(n), str(n + 1)


def _fraction(rng: random.Random) -> Made:
    a, b = rng.randint(1, 60), rng.randint(2, 60)
    return rf"\dfrac{{{2 * a}}}{{{2 * b}}}", rf"\frac{{{a}}}{{{b}}}", rf"\frac{{{a + 1}}}{{{b}}}"


def _radical(rng: random.Random) -> Made:
    a, b = rng.randint(2, 9), rng.choice((2, 3, 5, 7))
    return rf"\sqrt{{{a * a * b}}}", rf"{a}\sqrt{{{b}}}", rf"{a + 1}\sqrt{{{b}}}"


def _tuple(rng: random.Random) -> Made:
    a, b = rng.randint(-9, 9), rng.randint(2, 9)
    return rf"\left({a}, \frac{{{1}}}{{{b}}}\right)", rf"({a},\tfrac1{b})", rf"({a}, {b})"


def _interval(rng: random.Random) -> Made:
    a = rng.randint(-9, 9)
    return rf"x \ge {a}", rf"[{a},\infty)", rf"({a}, \infty)"


def _polynomial(rng: random.Random) -> Made:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    return rf"(x+{a})(x+{b})", rf"x^2+{a + b}x+{a * b}", rf"(x+{a})(x-{b})"


def _pi(rng: random.Random) -> Made:
    a = rng.randint(2, 40)
    return rf"{a} \pi \text{{ cm}}^2", rf"{a}\pi", rf"{a + 2}\pi"


def _choice(rng: random.Random) -> Made:
    a, b = rng.sample("ABCDE", 2)
    return rf"\text{{({a})}}", rf"\text{{{a}}}", b


def _trigonometric(rng: random.Random) -> Made:
    a = rng.randint(2, 40)
    return rf"\cos 2x + {a}", rf"2\cos^2 x + {a - 1}", rf"\cos 2x - {a}"


_KINDS: dict[Callable[[random.Random], Made], int] = {
    _integer: 60, _fraction: 14, _radical: 6, _tuple: 5, _interval: 3, _polynomial: 5, _pi: 4, _choice: 3, _trigonometric: 1,
}  # fmt: skip
