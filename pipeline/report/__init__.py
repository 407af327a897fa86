"""One self-contained HTML file of a run."""

from pipeline.report.page import render
from pipeline.report.read import RunData, read_run

__all__ = ["RunData", "read_run", "render"]
