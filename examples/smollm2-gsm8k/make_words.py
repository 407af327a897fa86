"""Writes short word problems in GSM8K's schema: python make_words.py <new folder> [seed]

train.jsonl has 3,000 problems and test.jsonl 200 others. Each takes one step, plus or minus, with numbers below 30. No problem
occurs twice, and the same seed makes the same files.
"""

import json
import random
import sys
from pathlib import Path

TRAIN, TEST = 3000, 200
PEOPLE = ("Ann", "Ben", "Dan", "Jack", "Jane", "John", "Kate", "Leo", "Lisa", "Mark", "Mary", "Paul", "Sam", "Tom")
THINGS = ("apples", "books", "cards", "coins", "eggs", "keys", "nuts", "pens", "plates", "seeds", "shells", "stones")
MORE, LESS = ("finds", "buys", "gets"), ("loses", "sells", "gives away")


def problem(rng: random.Random) -> dict[str, str]:
    """One row: `question`, and `answer` with the step and the result after `####`."""
    name, things, first, second = rng.choice(PEOPLE), rng.choice(THINGS), rng.randint(3, 20), rng.randint(1, 9)
    more = second >= first or rng.random() < 0.5
    total = first + second if more else first - second
    event, step = rng.choice(MORE if more else LESS), f"{first}{'+' if more else '-'}{second}"
    question = f"{name} has {first} {things} and {event} {second}. How many {things} does {name} have now?"
    return {"question": question, "answer": f"{name} has {step}=<<{step}={total}>>{total} {things}.\n#### {total}"}


def main(folder: Path, seed: int) -> None:
    rng, rows = random.Random(seed), {}
    while len(rows) < TRAIN + TEST:
        row = problem(rng)
        rows.setdefault(row["question"], row)
    both = list(rows.values())
    folder.mkdir(parents=True)
    for name, part in (("test", both[:TEST]), ("train", both[TEST:])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) == 3 else 0)
