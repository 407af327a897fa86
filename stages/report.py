"""Writes report.html: one self-contained page about a run."""

from pipeline.common.errors import UserError
from pipeline.common.files import write_text
from pipeline.report import read_run, render
from pipeline.run.summary import write_summary
from pipeline.stage import StageRun, run_stage


def main(run: StageRun) -> dict:
    settings = run.settings
    data = read_run(run.root, command=f"bash run.sh stage=all model={settings.model_name} name={settings.name}")
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
    return {"report": str(path), "steps": len(data.metrics), "missing": data.missing, "accuracy": accuracy}


if __name__ == "__main__":
    run_stage(main)
