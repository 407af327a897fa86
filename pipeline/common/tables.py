"""Tables of text: aligned for a screen, and in Markdown for the documentation."""

from collections.abc import Sequence

Cells = Sequence[Sequence[str]]


def aligned(headings: Sequence[str], rows: Cells) -> list[str]:
    """Lines with every column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (headings, *rows)
    ]


def markdown(headings: Sequence[str], rows: Cells) -> list[str]:
    """The same as a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in lines]
