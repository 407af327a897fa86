"""How a response gives its answer: the less it is set apart, the easier it is to be paid for something else."""

from typing import Literal

from pipeline.verify.reading.boxes import find_boxes, squeeze
from pipeline.verify.reading.extract import extract
from pipeline.verify.reading.response import visible

Given = Literal["box", "announced", "prose", "nothing"]


def how_given(response: str) -> Given:
    """`box`; `announced` (`<answer>` tags, `####`, "the answer is"); `prose` (none of these: a short response as a whole, a
    formula at its end, its last sentence); `nothing` where there is no answer. Never raises."""
    found = extract(response)
    if found.answer is None:
        return "nothing"
    answer = squeeze(found.answer)
    boxes = [squeeze(content) for _, _, content in find_boxes(visible(response))]
    if any(content and content in answer for content in boxes):  # several boxes are joined to one answer
        return "box"
    return "announced" if extract(response, plain_response=False).answer is not None else "prose"
