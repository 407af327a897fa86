"""maj@k by hand: which answers vote together, who does not vote, and what a tie is worth."""

import pytest

from pipeline.rl.majority import majority_right
from pipeline.verify import Grade


def group(*answers: str | None) -> list[Grade]:
    """Grades of answers; those that end in ! are right."""
    return [
        Grade(bool(answer and answer.endswith("!")), answer and answer.rstrip("!"), "", "string") for answer in answers
    ]


def never(pairs):
    return [False] * len(pairs)


def halves(pairs):
    """A verifier that knows one half by several names."""
    names = {"1/2", "0.5", "50%"}
    return [{a, b} <= names for a, b in pairs]


@pytest.mark.parametrize(
    ("answers", "equal", "wanted"),
    [
        (["7!", "7!", "8"], never, 1.0),
        (["7!", "8", "8"], never, 0.0),
        (["7!", "8"], never, 0.5),
        (["7!", "8", "9"], never, pytest.approx(1 / 3)),
        (["7!", "7.0!", "8", "8"], never, 0.5),  # right answers are one candidate, however they are written
        (["7!", None, "", "8", "  "], never, 0.5),  # a response without an answer does not vote
        (["7!", "7!", "1/2", "0.5", "50%"], never, 1.0),
        (["7!", "7!", "1/2", "0.5", "50%"], halves, 0.0),  # and wrong ones that are equal are one candidate too
        ([None, None], never, 0.0),
        (["8", "9"], never, 0.0),
    ],
)
def test_the_majority(answers, equal, wanted):
    assert majority_right([group(*answers)], equal) == [wanted]


def test_all_problems_ask_at_once_and_never_of_two_whole_numbers():
    asked = []

    def equal(pairs):
        asked.append(sorted(pairs))
        return [False] * len(pairs)

    assert majority_right([group("1", "2", "x"), group("y", "z", "z", "3!"), group("4", "5")], equal) == [0.0, 0.0, 0.0]
    assert asked == [[("1", "x"), ("2", "x"), ("y", "z")]]
