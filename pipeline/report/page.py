"""The page: headline, accuracy, solutions, charts, cost, configuration and environment in one HTML file."""

import base64
import datetime
import hashlib
from pathlib import Path
from typing import Any

import yaml

from pipeline.report.accuracy import accuracy_section, entry_of, measured, sets_of
from pipeline.report.audit import audit_section
from pipeline.report.axes import written
from pipeline.report.charts import Line, line_chart
from pipeline.report.read import RunData
from pipeline.report.sections import Metrics, figure, sections
from pipeline.report.solutions import before_and_after, direct_by_step, sampled, shape_of, through_training
from pipeline.report.text import escape
from pipeline.tracking.drift import drifts
from pipeline.tracking.progress import duration
from pipeline.tracking.values import number

HERE = Path(__file__).parent
STAGES = ("preprocess", "sft", "convert", "rollout", "rl", "evaluate", "export")
FACTS = (
    ("model", "model_name"), ("objective", "algo.loss"), ("α", "algo.alpha"), ("β", "algo.beta"),
    ("ε", "algo.eps_low"), ("ε high", "algo.eps_high"), ("steps", "rl.steps"), ("prompts", "rl.prompts_per_step"),
    ("group", "rl.group_size"), ("lr", "rl.optimizer.lr"), ("seed", "seed"),
)  # fmt: skip
"""Settings named below the title."""
WARM_UP = (
    ("sft/loss", "Warm-up loss", "mean over the learned tokens", "loss"),
    ("sft/lr", "Warm-up learning rate", "", "rate"),
    ("sft/skipped", "Warm-up steps skipped", "1: loss or gradient was not finite", "skipped"),
)
"""Metrics of the warm-up: name, title, note, label."""


def render(data: RunData) -> str:
    """The whole page as text that UTF-8 can encode, also where the run's files hold lone surrogates."""
    metrics = Metrics(data.metrics)
    parts = [_head(data), _drifts(data), _missing(data), _tiles(data, metrics)]
    contents: list[tuple[str, str]] = []

    def add(title: str, body: str, note: str = "") -> None:
        if body:
            anchor = title.lower().replace(" ", "-").replace("'", "")
            contents.append((anchor, title))
            note = f'<p class="lead">{escape(note)}</p>' if note else ""
            parts.append(f'<section id="{anchor}"><h2>{escape(title)}</h2>{note}{body}</section>')

    add("Accuracy", accuracy_section(data))
    extra = {"Responses": _direct_chart(data)}
    solutions = _solutions(data)
    for title, note, charts in sections(metrics, extra):
        size = "small grid" if title == "Everything else" else "grid"
        add(title, f'<div class="{size}">{"".join(charts)}</div>', note)
        if title == "Learning":
            add("Solutions", solutions)
            solutions = ""
    add("Solutions", solutions)
    if data.audit is not None:
        add("Audit", audit_section(data.audit), "The run's own rewards, looked at again.")
    warm_up = Metrics(data.sft)
    charts = [
        figure(title, note, line_chart(warm_up.steps, [Line(label, column)], zero=True, smooth=name == "sft/loss"))
        for name, title, note, label in WARM_UP
        if (column := warm_up.get(name)) is not None
    ]
    if charts:
        add("Warm-up", f'<div class="grid">{"".join(charts)}</div>', "Supervised, before reinforcement learning.")
    add("Cost", _cost(data))
    add("Set-up", _environment(data) + _text_block("config.yaml", data.config))
    links = "".join(f'<a href="#{anchor}">{escape(title)}</a>' for anchor, title in contents)
    parts.insert(1, f"<nav>{links}</nav>")
    return document(data.name, "".join(parts))


def document(title: str, body: str) -> str:
    """One HTML file that loads nothing: the page's style and script around `body`."""
    style, script = (HERE / "style.css").read_text("utf-8"), (HERE / "hover.js").read_text("utf-8")
    # The page may load nothing and run no script but ours, should a text ever get past the escaping.
    allowed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main><script>{script}</script></body></html>\n"
    )


def _head(data: RunData) -> str:
    try:
        settings = yaml.safe_load(data.config)
    except yaml.YAMLError:
        settings = None
    facts = []
    for label, key in FACTS:
        value = settings
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            facts.append(f"<span>{escape(label)} <b>{escape(value)}</b></span>")
    today = datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")
    return f'<h1>{escape(data.name)}</h1><div class="facts">{"".join(facts)}<span>{escape(today)}</span></div>'


def _drifts(data: RunData) -> str:
    """What has changed in how paid answers are given; empty if nothing has."""
    found = drifts(data.metrics)
    if not found:
        return ""
    items = "".join(f"<li>{escape(drift)}</li>" for drift in found)
    return f"<aside><b>How answers are paid has changed</b><ul>{items}</ul></aside>"


def _missing(data: RunData) -> str:
    if not data.missing:
        return ""
    items = "".join(f"<li>{escape(item)}</li>" for item in data.missing)
    return f"<aside><b>Not in this report</b><ul>{items}</ul></aside>"


def _tiles(data: RunData, metrics: Metrics) -> str:
    """Headline figures: accuracy on the first set, shape of the answers, duration."""
    tiles = []
    for name in sets_of(data)[:1]:
        before, after = entry_of(data, "before", name), entry_of(data, "after", name)
        average = next(
            (key for key in (after or before) if key.startswith("avg@") and not key.endswith("_ci")), "avg@k"
        )
        for key in (average, "greedy"):
            old, new = measured(before, key), measured(after, key)
            values = [None if found is None else f"{100 * found.value:.1f}%" for found in (old, new)]
            change = f"{100 * (new.value - old.value):+.1f} points" if old and new else ""
            tiles.append(_tile(f"{key} on {name}", values, change))
    shapes = [_shape(data, when) for when in ("before", "after")]
    direct = [number(shape.get("direct_share")) for shape in shapes]
    tiles.append(
        _tile(
            "direct answers",
            [None if v is None else written(v, "share") for v in direct],
            "only the final box, no steps",
        )
    )
    in_tokens = all("response_tokens" in shape for shape in shapes if shape)
    key, unit = ("response_tokens", "tokens") if in_tokens else ("characters_mean", "characters")
    lengths = [number(shape.get(key)) for shape in shapes]
    tiles.append(_tile("response length", [None if v is None else written(v) for v in lengths], unit))
    if data.stage_seconds:
        last = f"{metrics.steps[-1]:.0f} RL steps" if metrics.steps else ""
        tiles.append(_tile("all stages", [None, duration(sum(data.stage_seconds.values()))], last))
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _tile(label: str, values: list[str | None], note: str) -> str:
    """`before → after`, or the one that is known; empty if neither is."""
    old, new = values
    if old is None and new is None:
        return ""
    figures = f"<b>{escape(new if new is not None else old)}</b>"
    if old is not None and new is not None:
        figures = f"<s>{escape(old)}</s> → {figures}"
    elif old is not None:
        note = f"before training; {note}" if note else "before training"
    return f'<div><small>{escape(label)}</small><p>{figures}</p><small class="note">{escape(note)}</small></div>'


def _shape(data: RunData, when: str) -> dict[str, Any]:
    """Length and directness of the responses: measured by evaluate over all of them, or else over the kept samples."""
    shape: dict[str, Any] = shape_of(sampled(data.evaluation_samples.get(when, [])))
    for name in sets_of(data)[:1]:
        shape |= entry_of(data, when, name)
    return shape


def _solutions(data: RunData) -> str:
    held_out = before_and_after(*(data.evaluation_samples.get(when, []) for when in ("before", "after")))
    note, training = through_training(data.samples)
    parts = (
        (
            "Before and after",
            "the first held-out problems of the file, not a selection",
            held_out,
        ),
        ("Early and late in training", note, training),
    )
    return "".join(f"<h3>{title} <small>{note}</small></h3>{body}" for title, note, body in parts if body)


def _direct_chart(data: RunData) -> list[str]:
    steps, shares = direct_by_step(data.samples)
    if not steps:
        return []
    chart = line_chart(steps, [Line("only the final box", shares)], form="share", zero=True, smooth=True)
    return [figure("Direct answers", "share of the rollouts in samples.jsonl that hold only the final box", chart)]


def _cost(data: RunData) -> str:
    """Seconds of each finished stage, as bars."""
    if not data.stage_seconds:
        return ""
    order = sorted(data.stage_seconds, key=lambda name: STAGES.index(name) if name in STAGES else len(STAGES))
    longest, total = max(data.stage_seconds.values()) or 1.0, sum(data.stage_seconds.values())
    rows = "".join(
        f'<tr><th>{escape(name)}</th><td class="bar"><i style="width:{100 * data.stage_seconds[name] / longest:.1f}%">'
        f"</i></td><td>{duration(data.stage_seconds[name])}</td></tr>"
        for name in order
    )
    return (
        f'<figure class="table"><table class="cost"><tbody>{rows}<tr class="total"><th>together</th><td></td>'
        f"<td>{duration(total)}</td></tr></tbody></table></figure>"
    )


def _environment(data: RunData) -> str:
    versions = data.environment.get("versions")
    facts = {key: value for key, value in data.environment.items() if key != "versions"}
    if isinstance(versions, dict):
        facts |= {key: value for key, value in versions.items() if value}
    if not facts:
        return ""
    rows = "".join(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items())
    return f'<figure class="table"><dl>{rows}</dl></figure>'


def _text_block(title: str, text: str) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>" if text else ""
