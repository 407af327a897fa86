"""Writes report.html, one self-contained page about a run, and audit.html, the most doubtful verdicts on its rollouts."""

from typing import Any

from pipeline.common.errors import UserError
from pipeline.common.files import write_text
from pipeline.report import read_run, render
from pipeline.report.audit import Audit, Verdict, doubtful_page
from pipeline.report.kept import kept_rollouts
from pipeline.report.page import document
from pipeline.run.summary import write_summary
from pipeline.settings import Settings
from pipeline.stage import StageRun, run_stage
from pipeline.verify import VerifierPool
from pipeline.verify.reading.extract import graded_part
from pipeline.verify.reading.given import how_given
from stages.bench.math_verify import math_verify


def main(run: StageRun) -> dict:
    settings = run.settings
    data = read_run(run.root, command=f"bash run.sh stage=all model={settings.model_name} name={settings.name}")
    most = settings.report.audit_rows
    data.audit = audit_of(settings, kept_rollouts(run.root, data, most)) if most else None
    try:
        accuracy = write_summary(run.root)["accuracy"]
    except UserError as error:  # an evaluation file is damaged: the report says so and shows the rest
        accuracy = {}
        run.log(f"summary.json is not updated: {error}")
    path = run.root / "report.html"
    write_text(path, render(data))
    for gap in data.missing:
        run.log(f"Not in the report: {gap}")
    run.log(f"{path} ({path.stat().st_size / 1024:.0f} KiB; open it in any browser)")
    if data.audit is not None:
        title = f"{data.name}: doubtful verdicts"
        write_text(run.root / "audit.html", document(title, doubtful_page(title, data.audit)))
        run.log(f"{run.root / 'audit.html'} shows the most doubtful verdicts on its rollouts")
    return {"report": str(path), "steps": len(data.metrics), "missing": data.missing, "accuracy": accuracy}


def audit_of(settings: Settings, rows: list[dict[str, Any]]) -> Audit | None:
    """Grades kept rollouts again, by the rules alone and by math-verify if it is there. None without rollouts.

    Raises UsageError if `report.peer_python` cannot run math-verify.
    """
    if not rows:
        return None
    texts = [graded_part(row["text"], row.get("finish_reason")) for row in rows]
    with VerifierPool.from_settings(settings.verify) as pool:
        grades = pool.grade_many([(text, row["gold"], row["problem"]) for text, row in zip(texts, rows, strict=True)])
    peer: dict[str, Any] = {"version": None, "verdicts": [None] * len(rows)}
    if settings.report.peer_python:
        pairs = [(text, row["gold"]) for text, row in zip(texts, rows, strict=True)]
        peer = math_verify("report.peer_python", settings.report.peer_python, pairs)
    verdicts = [
        Verdict(
            place=row["place"], problem=row["problem"], gold=row["gold"], response=row["text"], right=grade.correct,
            extracted=grade.extracted, reason=grade.reason, layer=grade.layer, unread=grade.unread, given=how_given(text),
            paid=row.get("correct"), judged=row.get("layer") == "judge", peer=verdict,
        )
        for row, text, grade, verdict in zip(rows, texts, grades, peer["verdicts"], strict=True)
    ]  # fmt: skip
    return Audit(verdicts, settings.verify.form, peer["version"])


if __name__ == "__main__":
    run_stage(main)
