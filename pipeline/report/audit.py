"""The audit of a run's rewards: what the verifier says of kept rollouts today, beside the verdicts that the run paid by and
those of math-verify, and the most doubtful ones for a person's eye."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain, zip_longest

from pipeline.report.text import escape, shortened

SHOWN = 50
"""Most verdicts on the page."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One kept rollout, and every verdict on it."""

    place: str
    """Where the run kept it: `step 12`, `offline`."""
    problem: str
    gold: str
    response: str
    right: bool
    """By the verifier's rules, today."""
    extracted: str | None
    reason: str
    layer: str
    """The layer that decided."""
    unread: str
    given: str
    """How the answer was given: box, announced, prose, nothing."""
    paid: bool | None
    """What the run decided; None where it did not write that down."""
    judged: bool
    """The run paid it because its judge said so."""
    peer: bool | None
    """math-verify's verdict; None where it took no part."""


@dataclass(frozen=True)
class Audit:
    """The audited rollouts of a run."""

    verdicts: list[Verdict]
    form: str
    """`verify.form`."""
    peer: str | None
    """math-verify's version; None where it took no part."""

    @property
    def agreement(self) -> float | None:
        """Share of the verdicts that math-verify shares."""
        return None if self.peer is None else sum(v.right == v.peer for v in self.verdicts) / len(self.verdicts)


PAID_ALONE = "right here, wrong for math-verify"
REFUSED_ALONE = "wrong here, right for math-verify"

DOUBTS: tuple[tuple[str, Callable[[Verdict], bool]], ...] = (
    ("paid by the judge alone", lambda v: v.judged),
    ("the run decided otherwise", lambda v: v.paid is not None and v.paid != v.right and not v.judged),
    ("right, read from prose", lambda v: v.right and v.given == "prose"),
    ("right by sympy", lambda v: v.right and v.layer == "symbolic"),
    ("right by its values", lambda v: v.right and v.layer == "value"),
    ("equal, refused for its form", lambda v: v.layer == "form"),
    ("wrong, could not be read", lambda v: not v.right and v.unread in ("grammar", "symbolic")),
    ("wrong, two different answers", lambda v: v.reason == "hedged"),
    ("wrong, out of time", lambda v: v.reason == "time-out"),
)
"""The verifier's own reasons to doubt a verdict."""


def disagreement(verdict: Verdict) -> str | None:
    """How a verdict differs from math-verify's, and what decided it here; None where they agree or nobody asked."""
    if verdict.peer is None or verdict.peer == verdict.right:
        return None
    if verdict.right:
        return f"{PAID_ALONE}: {verdict.layer}"
    return f"{REFUSED_ALONE}: {verdict.reason.partition(':')[0]}"


def doubts(verdict: Verdict) -> list[str]:
    """Every reason to doubt a verdict, the strongest first."""
    found = disagreement(verdict)
    return ([found] if found else []) + [name for name, holds in DOUBTS if holds(verdict)]


def most_doubtful(verdicts: Iterable[Verdict], count: int = SHOWN) -> list[Verdict]:
    """Disagreements with math-verify first, paid ones before refused ones, then the verifier's own doubts. Within these three,
    each reason in turn, so that a frequent one does not hide the others; of equal answers to one problem, the first."""
    tiers: tuple[dict[str, list[Verdict]], ...] = ({}, {}, {})
    seen = set()
    for verdict in verdicts:
        reasons = doubts(verdict)
        key = (verdict.problem, verdict.gold, verdict.extracted, verdict.right, verdict.peer)
        if not reasons or key in seen:
            continue
        seen.add(key)
        tier = 0 if reasons[0].startswith(PAID_ALONE) else 1 if reasons[0].startswith(REFUSED_ALONE) else 2
        tiers[tier].setdefault(reasons[0], []).append(verdict)
    in_turn = (chain.from_iterable(zip_longest(*tier.values())) for tier in tiers)
    return [verdict for verdict in chain.from_iterable(in_turn) if verdict is not None][:count]


def audit_section(audit: Audit) -> str:
    """Of the report: what was audited, and how often there is which reason to doubt."""
    counts = Counter(reason for verdict in audit.verdicts for reason in doubts(verdict))
    rows = "".join(
        f"<tr><th>{escape(reason)}</th><td>{count:,}</td><td>{100 * count / len(audit.verdicts):.1f}%</td></tr>"
        for reason, count in counts.most_common()
    )
    head = "<thead><tr><th>reason to doubt a verdict</th><th>verdicts</th><th>share</th></tr></thead>"
    table = f'<figure class="table"><table>{head}<tbody>{rows}</tbody></table></figure>' if rows else ""
    return f'<p class="lead">{escape(summary(audit))}</p>{table}'


def summary(audit: Audit) -> str:
    """The audit in a few sentences."""
    right = sum(verdict.right for verdict in audit.verdicts)
    parts = [
        f"{len(audit.verdicts):,} rollouts that the run kept were graded again by its rules (verify.form={audit.form}): "
        f"{right:,} are right."
    ]
    if audit.agreement is None:
        parts.append(
            "math-verify took no part (report.peer_python names its interpreter): only the verifier's own doubts."
        )
    else:
        parts.append(f"math-verify {audit.peer} agrees on {100 * audit.agreement:.1f}% of them.")
    doubtful = len(most_doubtful(audit.verdicts))
    parts.append(f"audit.html shows {f'the {doubtful} most doubtful' if doubtful else 'that no verdict is doubtful'}.")
    return " ".join(parts)


def doubtful_page(title: str, audit: Audit) -> str:
    """The body of audit.html: the most doubtful verdicts, each with its problem, gold and response."""
    cards = "".join(map(_card, most_doubtful(audit.verdicts)))
    note = (
        "Disagreements with math-verify come first, then answers that the verifier itself is least sure of; each kind in turn, "
        "equal answers once. Neither grader is the truth: read the problem and the gold."
    )
    return (
        f'<h1>{escape(title)}</h1><p class="facts">{escape(summary(audit))}</p>'
        f'<p class="facts">{escape(note)}</p>{cards or "<p>No verdict is doubtful.</p>"}'
    )


def _card(verdict: Verdict) -> str:
    said = [f"verifier: {'right' if verdict.right else 'wrong'} ({verdict.reason}; {verdict.layer})"]
    if verdict.paid is not None:
        said.append(f"the run: {'paid' if verdict.paid else 'not paid'}{' by its judge' if verdict.judged else ''}")
    if verdict.peer is not None:
        said.append(f"math-verify: {'right' if verdict.peer else 'wrong'}")
    answer = "none" if verdict.extracted is None else shortened(verdict.extracted, 200)
    mark = ("right", "✓") if verdict.right else ("wrong", "✗")
    return (
        f'<article><header><div class="problem">{shortened(verdict.problem.strip(), 600)}</div>'
        f'<span class="gold">answer {shortened(verdict.gold, 200)}</span></header>'
        f"<h4>{escape('; '.join(doubts(verdict)))} <small>{escape(verdict.place)}</small></h4>"
        f'<div class="response {mark[0]}"><span class="verdict">{mark[1]}</span><pre>{shortened(verdict.response)}</pre>'
        f"<small>read: {answer} · {escape(' · '.join(said))}</small></div></article>"
    )
