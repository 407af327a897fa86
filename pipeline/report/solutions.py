"""Responses of the model: the same problems before and after training, and early and late in it."""

from collections import defaultdict
from dataclasses import dataclass, field

from pipeline.report.read import Row
from pipeline.report.text import escape, shortened
from pipeline.tracking.statistics import is_direct, response_shape
from pipeline.tracking.values import number

SHOWN = 3
"""Problems shown at once; the others are folded."""
MOST = 24
RESPONSES = 2
"""Responses shown of each problem and time."""


@dataclass(frozen=True)
class Response:
    """One text and its verdict."""

    text: str
    right: bool | None
    """None: not known."""
    note: str = ""
    greedy: bool = False
    """Decoded greedily; not one of the samples."""


@dataclass
class Sampled:
    """What was answered to one problem at one time."""

    key: str
    problem: str
    gold: str
    step: int | None = None
    responses: list[Response] = field(default_factory=list)


def sampled(rows: list[Row]) -> list[Sampled]:
    """Rows of samples.jsonl or of an evaluation's samples; every field may be missing. Rows that hold one `response` or
    `text` each are gathered by problem and step."""
    found: dict[tuple[str, object], Sampled] = {}
    for row in rows:
        problem = str(row.get("problem", ""))
        key = str(row.get("prompt_id", row.get("id", problem)))
        if row.get("set") is not None:
            key = f"{row['set']}: {key}"
        step = row.get("step")
        entry = found.setdefault(
            (key, step),
            Sampled(key, problem, str(row.get("gold", row.get("answer", ""))), step if isinstance(step, int) else None),
        )
        responses = row.get("responses")
        for response in [row] if not isinstance(responses, list) else responses:
            entry.responses.extend(_response(response))
    return list(found.values())


def shape_of(entries: list[Sampled]) -> dict[str, float]:
    """`direct_share` and `characters_mean` over all sampled responses; empty if there are none."""
    return response_shape([response.text for entry in entries for response in entry.responses if not response.greedy])


def direct_by_step(rows: list[Row]) -> tuple[list[float], list[float | None]]:
    """Steps with sampled rollouts, and the share of these that are nothing but the final box."""
    texts: dict[int, list[str]] = defaultdict(list)
    for entry in sampled(rows):
        if entry.step is not None:
            texts[entry.step] += [response.text for response in entry.responses]
    steps = sorted(step for step, found in texts.items() if found)
    return [float(step) for step in steps], [sum(map(is_direct, texts[step])) / len(texts[step]) for step in steps]


def before_and_after(before: list[Row], after: list[Row]) -> str:
    """The first held-out problems of the file, before and after training side by side."""
    late = {entry.key: entry for entry in sampled(after)}
    early = sampled(before)
    pairs = [(entry, late.get(entry.key)) for entry in early if entry.key in late] or [(entry, None) for entry in early]
    if not early:
        pairs = [(entry, None) for entry in late.values()]
    names = ("Before training", "After training") if early else ("After training", "")
    return _folded([_card(entry, [(names[0], entry), (names[1], other)]) for entry, other in pairs[:MOST]])


def through_training(rows: list[Row]) -> tuple[str, str]:
    """Problems that were sampled at several steps, side by side; if there are none, the longest problem of each of five
    steps. Returns how they were chosen, and their cards."""
    entries = [entry for entry in sampled(rows) if entry.step is not None]
    by_key: dict[str, list[Sampled]] = defaultdict(list)
    for entry in entries:
        by_key[entry.key].append(entry)
    again = [sorted(found, key=_step) for found in by_key.values() if len(found) > 1]
    again.sort(key=lambda found: _step(found[0]) - _step(found[-1]))  # furthest apart first
    if again:
        note = "kept problems that were sampled more than once, furthest apart first"
        return note, _folded(
            [
                _card(found[0], [(f"Step {entry.step}", entry) for entry in (found[0], found[-1])])
                for found in again[:MOST]
            ]
        )
    steps = sorted({_step(entry) for entry in entries})
    wanted = [steps[round(i * (len(steps) - 1) / 4)] for i in range(5)] if steps else []
    chosen = [
        max((entry for entry in entries if entry.step == step), key=lambda entry: len(entry.problem))
        for step in dict.fromkeys(wanted)
    ]
    note = "no kept problem was sampled twice; shown is the longest problem of each of five steps"
    return note, "".join(_card(entry, [(f"Step {entry.step}", entry)]) for entry in chosen)


def _response(row: object) -> list[Response]:
    if isinstance(row, str):
        return [Response(row, None)]
    text = next((row[name] for name in ("text", "response") if name in row), None) if isinstance(row, dict) else None
    if text is None or not isinstance(row, dict):
        return []
    right = row.get("correct")
    if not isinstance(right, bool):
        reward = number(row.get("reward"))
        right = None if reward is None else reward > 0.5
    notes = []
    greedy = row.get("greedy") is True
    if greedy:
        notes.append("greedy")
    if (advantage := number(row.get("advantage"))) is not None:
        notes.append(f"advantage {advantage:+.2f}")
    if row.get("finish_reason") == "length":
        notes.append("truncated")
    return [Response(str(text), right, ", ".join(notes), greedy)]


def _step(entry: Sampled) -> int:
    return entry.step or 0


def _card(problem: Sampled, columns: list[tuple[str, Sampled | None]]) -> str:
    shown = "".join(_column(title, entry) for title, entry in columns if entry is not None)
    gold = f'<span class="gold">answer {shortened(problem.gold, 200)}</span>' if problem.gold else ""
    head = f'<header><div class="problem">{shortened(problem.problem.strip(), 600)}</div>{gold}</header>'
    return f'<article>{head}<div class="columns">{shown}</div></article>'


def _column(title: str, entry: Sampled) -> str:
    judged = [response.right for response in entry.responses if response.right is not None and not response.greedy]
    count = f"<small>{sum(judged)} of {len(judged)} samples right</small>" if len(judged) > 1 else ""
    texts = "".join(map(_text, entry.responses[:RESPONSES])) or "<p>no response</p>"
    return f"<div><h4>{escape(title)} {count}</h4>{texts}</div>"


def _text(response: Response) -> str:
    verdict = {True: ("right", "✓"), False: ("wrong", "✗"), None: ("unknown", "·")}[response.right]
    note = f"<small>{escape(response.note)}</small>" if response.note else ""
    body = shortened(response.text) if response.text else "<i>empty</i>"
    return f'<div class="response {verdict[0]}"><span class="verdict">{verdict[1]}</span><pre>{body}</pre>{note}</div>'


def _folded(cards: list[str]) -> str:
    first, rest = cards[:SHOWN], cards[SHOWN:]
    if not rest:
        return "".join(first)
    return f"{''.join(first)}<details><summary>{len(rest)} more problems</summary>{''.join(rest)}</details>"
