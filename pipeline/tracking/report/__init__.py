"""One self-contained HTML file of a run."""

from pipeline.tracking.report.page import render
from pipeline.tracking.report.read import RunData, read_run

__all__ = ["RunData", "read_run", "render"]
