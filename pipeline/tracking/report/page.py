"""The page."""

import html

from pipeline.tracking.report.read import RunData


def render(data: RunData) -> str:
    """The whole file as text."""
    return (
        f"<!doctype html><meta charset=utf-8><title>{html.escape(data.name)}</title><h1>{html.escape(data.name)}</h1>"
    )
