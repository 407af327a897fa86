"""From a raw row to a problem, or to the reason why not."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.data import messages
from pipeline.data.answers import RowError, as_gold, as_text, check_readable, from_solution, tidy
from pipeline.data.columns import ABSENT, cell, normal
from pipeline.data.raw import RawRow
from pipeline.data.text import canonical, clean, tokens
from pipeline.data.wrappers import chat_marker, unwrapped
from pipeline.settings import Columns

CHOICES = frozenset({"choices", "options"})
_CHOICE = re.compile(r"\(?[A-Ja-j0-9]\)?")


@dataclass(slots=True)
class Problem:
    """A cleaned problem of the user's."""

    id: str | None
    """Made unique over all files by `unique_ids`."""
    problem: str
    answer: str | None
    """None only in warm-up rows, which need none."""
    solution: str | None
    source: str
    """The `data.path` entry that it is counted under."""
    file: str
    line: int
    derived: bool = False
    """The answer was taken from the solution."""
    stripped: bool = False
    """An answer-format instruction was removed from the problem."""
    key: str = field(default="", repr=False)
    """Canonical text: equal for two ways of typing one problem."""

    def __post_init__(self) -> None:
        self.key = canonical(tokens(self.problem))

    @property
    def place(self) -> dict[str, Any]:
        """Its id and place, as records name them."""
        return {"id": self.id, "file": self.file, "line": self.line}


def problem_row(problem: Problem) -> dict[str, Any]:
    """The row in which later stages read a problem."""
    return {"id": problem.id, "problem": problem.problem, "answer": problem.answer, "source": problem.source}


def parse(
    raw: RawRow, source: str, columns: Columns, needs: str = "answer", strip: bool = True, keep_several: bool = False
) -> Problem:
    """The problem in `raw`; `needs` is `answer`, or `solution` for warm-up rows. With `strip`, known answer-format
    instructions are removed from the problem; with `keep_several`, an answer may be a list of different values.

    Raises RowError: the row is broken, or lacks its problem, or what is needed.
    """
    if raw.fault is not None:
        reason, _, detail = raw.fault.partition(" (")
        raise RowError(reason, detail.removesuffix(")"))
    row = {"messages": raw.value} if messages.is_chat(raw.value) else raw.value
    if not isinstance(row, dict):
        raise RowError("not an object", f"a row is a JSON object, and this is of type {type(row).__name__}")
    given, reply, gold = _problem(row, columns.problem)
    needs_solution = needs == "solution" and reply is None
    solution = _solution(row, columns.solution, needs_solution) or reply
    answer, before, fault = _answer(row, columns.answer, gold, keep_several)
    solution = solution or before  # GSM8K as published has the solution in its answer column
    if needs_solution and not solution:
        value = cell(row, columns.solution)
        raise RowError("no solution", _columns_of(row, columns.solution) if value is ABSENT else "")
    derived = False
    if answer is None and solution is not None and (found := from_solution(solution)) is not None:
        answer, derived = tidy(found)[0], True
    if answer is None and needs == "answer":
        raise RowError(fault.reason, fault.detail or ("and the solution states none" if solution else ""))
    if answer is not None and needs == "answer":
        check_readable(answer)
    problem = clean(unwrapped(given)) if strip else given
    _check_choices(row, problem, answer)
    name = cell(row, columns.id)
    name = str(name).strip() if isinstance(name, str | int) and not isinstance(name, bool) else ""
    place = (source, raw.file, raw.line)
    return Problem(name or None, problem, answer, solution, *place, derived, stripped=problem != given)


def unique_ids(problems: list[Problem], taken: set[str]) -> None:
    """Gives every problem an id that is in no other's; `taken` is added to. Rows without one are called after their place."""
    for problem in problems:
        stem = f"{problem.source}-{problem.line}"
        for name in _candidates(problem.id, problem.source, stem):
            if name not in taken:
                problem.id = name
                taken.add(name)
                break


def _candidates(given: str | None, source: str, stem: str) -> Iterator[str]:
    if given is not None:
        yield given
        yield f"{source}/{given}"
    yield stem
    number = 2
    while True:
        yield f"{stem}-{number}"
        number += 1


def _solution(row: dict[str, Any], names: str, needed: bool) -> str | None:
    """The worked solution. One of an unusable type counts as missing, because the problem can be used without it."""
    value = cell(row, names)
    try:
        text = None if value is ABSENT else as_text(value, "the solution")
    except RowError:
        if needed:
            raise
        return None
    return text or None


def _answer(row: dict[str, Any], names: str, gold: Any, keep_several: bool) -> tuple[str | None, str | None, RowError]:
    """(answer, the solution that it also holds, the reason if there is no answer); `gold` is that of a chat's own reply."""
    value = cell(row, names)
    if value is ABSENT and gold is not None:
        value = gold
    if value is ABSENT:
        return None, None, RowError("no answer", _columns_of(row, names))
    try:
        answer, before = tidy(as_gold(value, keep_several) or "")
    except RowError as error:
        if error.reason not in ("empty answer", "placeholder answer"):
            raise
        return None, None, error
    return answer, before, RowError("empty answer")


def _problem(row: dict[str, Any], names: str) -> tuple[str, str | None, Any]:
    """(the problem, a chat's reply, the answer that the reply carries)."""
    value = messages.from_text(cell(row, names))
    reply: str | None = None
    gold: Any = None
    if value is ABSENT:
        raise RowError("no problem", _columns_of(row, names))
    if messages.is_chat(value):
        value, reply, gold = messages.read_chat(value)
        reply = clean(reply) or None if reply else None
    elif messages.is_parts(value):
        value = messages.text_of(value)
    if value is not None and not isinstance(value, str):
        raise RowError(
            "wrong type", f"the problem is of type {type(value).__name__}; text or a list of messages is wanted"
        )
    text = clean(value or "")
    if not text:
        raise RowError("empty problem")
    marker = chat_marker(text)
    if marker is not None:
        raise RowError(
            "rendered prompt", f"the problem holds {marker}, a chat template's marker; give the bare problem"
        )
    return text, reply, gold


def _check_choices(row: dict[str, Any], problem: str, answer: str | None) -> None:
    """Raises RowError where the answer is the number or letter of an option that the problem does not show."""
    options = next(
        (value for key, value in row.items() if isinstance(key, str) and normal(key) in CHOICES and value), None
    )
    if not isinstance(options, list) or len(options) < 2 or answer is None or not _CHOICE.fullmatch(answer):
        return
    texts = [option for option in options if isinstance(option, str)]
    if texts and not all(option.strip() in problem for option in texts):
        raise RowError(
            "multiple choice", f"{answer} is one of {len(options)} options, which are not in the problem's text"
        )


def _columns_of(row: dict[str, Any], wanted: str) -> str:
    has = ", ".join(map(str, list(row)[:12])) or "none"
    return f"looked for the columns {wanted.replace(',', ', ')}; the row has {has}"
