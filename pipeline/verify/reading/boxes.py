r"""Answers in `\boxed{}` and `\fbox{}`: where they stand, and which of several belong together."""

import re
from dataclasses import dataclass

_BOX = re.compile(r"\\{1,4}(?:boxed|fbox|framebox)(?![A-Za-z])\s*(\{)?|\\.|[{}]", re.S)
_FIRST_BOX = re.compile(r"\\{1,4}(?:boxed|fbox|framebox)(?![A-Za-z])")
CORRECTED = re.compile(
    r"\b(?:wait|actually|correct(?:ion|ed|ing)?|mistake|wrong|error|instead|re-?check|recalculat|redo|however|not right"
    r"|incorrect|but)\b",
    re.I,
)
_CONNECTOR = re.compile(r"\b(?:and|or)\b|[,;&]|\\quad|\\text", re.I)
SENTENCE_END = re.compile(r"\.(?=\s|$|\*)|\n|(?<=[^\d])\.(?=[A-Z])|[!?](?=\s+[A-Z])|。")
_NEXT_PART = re.compile(r"\((?:[b-h]|ii|iii|iv|v)\)|\bpart\s*\(?(?:[b-h2-8]|ii|iii|iv)\b|(?<!\w)[b-h]\)", re.I)
HEDGE_DISTANCE = 200
WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")


@dataclass(frozen=True, slots=True)
class Extraction:
    """What stands as the final answer. Several answers that were given side by side are joined with commas."""

    answer: str | None
    prose: bool = False
    """Cut out of a sentence, rather than set apart by a box, tags or mathematics."""
    hedged: bool = False
    """More than one final answer was given, and they differ."""
    several: bool = False
    """Given in several boxes or formulas side by side: their order means little."""


NOTHING = Extraction(None)


def find_boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of every outermost box, in order; a box that never closes ends with its line."""
    boxes: list[tuple[int, int, str]] = []
    stack: list[tuple[int, int] | None] = []  # for each open brace: None, or the box's start and content's start
    inside = 0
    first = _FIRST_BOX.search(text, max(0, text.find("box") - len(r"\\\\frame")))
    if first is None:
        return boxes
    for match in _BOX.finditer(text, first.start()):
        token = match.group()
        if token[-1] == "{" and token != "\\{":
            is_box = len(token) > 1
            stack.append((match.start(), match.end()) if is_box else None)
            inside += is_box
        elif token == "}":
            if not stack:
                continue
            opened = stack.pop()
            if opened is not None:
                inside -= 1
                if inside == 0:
                    boxes.append((opened[0], match.end(), text[opened[1] : match.start()]))
        elif len(token) > 2 and not inside:  # `\boxed 2`
            bare = re.compile(r"\s*([^\s$.,]+)").match(text, match.end())
            if bare:
                boxes.append((match.start(), bare.end(), bare.group(1)))
    if inside:
        start, content = next(opened for opened in stack if opened is not None)
        line = re.compile(r"[^\n$]*").match(text, content)
        rest = line.group() if line else ""
        boxes = [box for box in boxes if box[0] < start]
        boxes.append((start, content + len(rest), re.split(r"\\\)|\\\]|\\end\b", rest)[0]))
    return boxes


def from_boxes(text: str, boxes: list[tuple[int, int, str]], hedge_distance: int = HEDGE_DISTANCE) -> Extraction:
    """The last box, with those that are joined to it (`\\boxed{1} and \\boxed{2}`). Boxes of parts (a) and (b) make a
    tuple: their order says which part each answers."""
    group = [boxes[-1]]
    hedged = parts = False
    last = squeeze(boxes[-1][2])
    for box in reversed(boxes[:-1]):
        gap = text[box[1] : group[0][0]]
        same = squeeze(box[2]) == last
        if not same and len(gap) <= 80 and _joins(gap):
            group.insert(0, box)
            continue
        if not same and len(gap) <= hedge_distance and not CORRECTED.search(gap) and not hedged:
            if _NEXT_PART.search(gap):
                parts = True
                group.insert(0, box)
                continue
            hedged = len(group) == 1
        break
    answers = list(dict.fromkeys(box[2].strip() for box in group))
    if parts:
        return Extraction(f"({', '.join(box[2].strip() for box in group)})")
    return Extraction(", ".join(answers) or None, hedged=hedged, several=len(answers) > 1)


def _joins(gap: str) -> bool:
    bare = re.sub(r"\\[()\[\]]|[$*\s]|\\text\b|\\quad|\\qquad", " ", gap)
    if "\n\n" in gap.strip(" ") or SENTENCE_END.search(gap.strip()):
        return False
    words = WORD.findall(bare)
    return (not words and not re.search(r"\d", re.sub(r"_\{?\d+\}?", "", bare))) or (
        len(words) <= 6 and bool(_CONNECTOR.search(gap))
    )


def squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text)
