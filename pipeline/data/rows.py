"""From a raw row to a problem, or to the reason why not."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pipeline.data.answers import RowError, as_text, from_solution, tidy
from pipeline.data.sources import RawRow
from pipeline.data.text import canonical, clean, tokens
from pipeline.settings import Columns

ABSENT = object()


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
    key: str = field(default="", repr=False)
    """Canonical text: equal for two ways of typing one problem."""

    def __post_init__(self) -> None:
        self.key = canonical(tokens(self.problem))

    @property
    def place(self) -> dict[str, Any]:
        """Where it stands, as records name it."""
        return {"id": self.id, "file": self.file, "line": self.line}


def cell(row: dict[str, Any], names: str) -> Any:
    """The first of the comma-separated columns that the row has; a dot reaches into it (`reward_model.ground_truth`,
    `prompt.0.content`). ABSENT if none."""
    for name in names.split(","):
        value: Any = row
        for part in [name.strip()] if name.strip() in row else name.strip().split("."):
            if isinstance(value, dict) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
                value = value[int(part)]
            else:
                value = ABSENT
                break
        if value is not ABSENT:
            return value
    return ABSENT


def parse(raw: RawRow, source: str, columns: Columns, needs: str = "answer") -> Problem:
    """The problem in `raw`; `needs` is `answer`, or `solution` for warm-up rows.

    Raises RowError: the row is broken, or lacks its problem, or what is needed.
    """
    if raw.fault is not None:
        raise RowError(raw.fault.partition(" (")[0], raw.fault)
    row = raw.value
    if not isinstance(row, dict):
        raise RowError("not an object", f"a row is a JSON object, this is of type {type(row).__name__}")
    problem = _required(row, columns.problem, "problem")
    solution = _solution(row, columns.solution, needed=needs == "solution")
    answer, before, fault = _answer(row, columns.answer)
    solution = solution or before
    derived = False
    if answer is None and solution is not None and (found := from_solution(solution)) is not None:
        answer, derived = tidy(found)[0], True
    if answer is None and needs == "answer":
        raise RowError(fault.reason, fault.detail or ("and the solution states none" if solution else ""))
    name = cell(row, columns.id)
    name = str(name).strip() if isinstance(name, str | int) and not isinstance(name, bool) else ""
    return Problem(name or None, problem, answer, solution, source, raw.file, raw.line, derived)


def unique_ids(problems: list[Problem], taken: set[str]) -> None:
    """Give every problem an id that is in no other's; `taken` is added to. Rows without one are called after their place."""
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
    """The worked solution. One of a type that cannot be used counts as missing: the problem is good without it."""
    value = cell(row, names)
    try:
        text = None if value is ABSENT else as_text(value, "the solution")
    except RowError:
        if needed:
            raise
        return None
    if needed and not text:
        raise RowError("no solution", _columns_of(row, names) if value is ABSENT else "")
    return text or None


def _answer(row: dict[str, Any], names: str) -> tuple[str | None, str | None, RowError]:
    """(answer, the solution that it holds too, what to say where there is none)."""
    value = cell(row, names)
    if value is ABSENT:
        return None, None, RowError("no answer", _columns_of(row, names))
    text = as_text(value, "the answer")
    try:
        answer, before = tidy(text or "")
    except RowError as error:
        if error.reason != "empty answer":
            raise
        return None, None, error
    return answer, before, RowError("empty answer")


def _required(row: dict[str, Any], names: str, what: str) -> str:
    value = cell(row, names)
    if value is ABSENT:
        raise RowError(f"no {what}", _columns_of(row, names))
    if value is not None and not isinstance(value, str):
        raise RowError("wrong type", f"the {what} is of type {type(value).__name__}, wanted is text")
    text = clean(value or "")
    if not text:
        raise RowError(f"empty {what}")
    return text


def _columns_of(row: dict[str, Any], wanted: str) -> str:
    has = ", ".join(map(str, list(row)[:12])) or "none"
    return f"no column {wanted.replace(',', ' or ')}; the row has {has}"
