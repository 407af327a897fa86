r"""Which statements of a response are its own answer, and which speak of something else.

A response may echo an example (`Answer: 8`), quote a reference, check itself, go on to another question, or stop in the
middle of a sentence. None of that is its answer, and a policy must not be paid for it.
"""

import re

from pipeline.verify.reading.boxes import SENTENCE_END

_SENTENCE = 300
"""Characters before a statement that may belong to its sentence."""
_OTHER = (
    r"\breference|\bgold(?:en)?\s+(?:answer|standard|label|solution)|\bground[- ]truth|\bofficial|\banswer\s+key|\bkey\s+says"
    r"|\b(?:expected|sample|model|placeholder)\s+(?:answer|output|result|solution)|\bexamples?\b|\be\.\s?g\.|\bfor\s+instance"
    r"|\b(?:another|other|next|previous|similar|different|related|original)\s+(?:question|problem|exercise|task)s?"
    r"|\btemplate\b|\bformat\b|\bprompt\b|\binstructions?\b|\bif\s+the\s+answer\b"
)
_FOREIGN = re.compile(_OTHER + r"|\b(?:double-?\s?)?check(?:ing)?\b|\bverify(?:ing)?\b|\bverification\b", re.I)
"""In the sentence of a statement: it is not about the response's own answer."""
_FOREIGN_BOX = re.compile(_OTHER, re.I)
_EXAMPLE = re.compile(
    r"^[\s#*>_(-]*(?:for\s+)?(?:example|sample|demonstration|e\.\s?g\.|illustration|few-?shot)\b", re.I | re.M
)
"""A line like this opens a block that is an example."""
_HEADER = re.compile(
    r"(?:^|\n)[ \t#*>_]*(?:(?:new|next)\s+)?(?:question|problem|exercise|q|human|user|instruction)"
    r"\s*\d*\s*[*_]*\s*[:：](?!\s*\\boxed)",
    re.I,
)
"""A question that is asked."""
_HEADER_WORDS = ("question", "problem", "exercise", "q:", "q ", "human", "user", "instruction", *(f"q{n}" for n in range(10)))
"""One of these is wherever the pattern above matches."""
_NEW_TASK = re.compile(
    r"(?:^|[\n.!?])[ \t#*>_]*(?:now\b|next\b|(?:our|the|this|my)\s+(?:actual\s+|real\s+)?(?:question|problem|task)\b"
    r"|for\s+(?:our|the|this)\s+(?:question|problem)\b|(?:question|problem|solution|q)\s*\d*\s*:)",
    re.I,
)
_WEAK = re.compile(
    r"\b(?:wait|oops|hold\s+on|correction|sorry|scratch\s+that|hmm+|actually|instead|on\s+second\s+thought|re-?check(?:ing|ed)?"
    r"|re-?calculat\w*|re-?do(?:ing)?|re-?comput\w*|mistake|error|misread|miscounted|wrong|incorrect|not\s+right)\b",
    re.I,
)
_WITHDRAWN = re.compile(
    r"(?:^|[.!?\n])\s*(?:(?:but|oh|no|wait|oops|hmm+|sorry|actually|hold\s+on)\b[\s,.!…-]*)*"
    r"(?:(?:that|this|it|the\s+above|my\s+(?:\w+\s+)?(?:answer|result)|the\s+answer\s+above)\s*)?(?:\b(?:is|was)|'s|’s)\s+"
    r"(?:\w+\s+)?(?:wrong|incorrect|not\s+right|not\s+correct|a\s+mistake|an\s+error)\b"
    r"|\bI\s+(?:have\s+)?(?:made|make)\s+an?\s+(?:\w+\s+)?(?:mistake|error)\b",
    re.I,
)
_SHOULD_BE = re.compile(
    r"\b(?:should|must)\s+(?:be|have\s+been)\s*:?\s*|\b(?:is|it's|it’s)\s+(?:actually|really|in\s+fact)\s+", re.I
)
_WORK = 12
"""Words between a box and "the final answer is", with an equation among them, that show that the box was a step."""
_OPEN_END = re.compile(
    r"(?:[,+=*/<>(-]|\b(?:the|a|an|of|to|and|or|but|so|plus|minus|times|is|are|was|were|we|which|that|those|these|then|because"
    r"|since|with|by|for|from|in|on|at|as|if|when|where|while|into|than|between|compute|calculate|find|count|need|have|has|be"
    r"|not|each|every|its|their|our|let|must|should|can|will))\s*$",
    re.I,
)
_GOES_ON = re.compile(
    r"\b(?:so|but|yet|however|although|though|unless|until|except|while|whereas|we|let|need|plus|minus|times|then|if|when"
    r"|divided|multiplied|squared|cubed)\b|\b(?:more|less|fewer)\s+than\b|[+=*/]\s*$",
    re.I,
)


def is_own(text: str, start: int) -> bool:
    """Whether the announcement of an answer at `start` speaks of the response's own answer."""
    before = text[max(0, start - _SENTENCE) : start]
    ends = [match.end() for match in SENTENCE_END.finditer(before)]
    if _FOREIGN.search(before[ends[-1] :] if ends else before) or _FOREIGN.match(text, start):
        return False
    paragraph = text[max(0, start - 5 * _SENTENCE) : start].rpartition("\n\n")[2]
    return not _EXAMPLE.search(paragraph)


def is_left_behind(text: str, start: int, end: int) -> bool:
    """Whether the statement from `start` to `end` is followed by work on the real task (it was an echo of an example), or
    by a sentence that breaks off."""
    rest = text[end:]
    if not rest.strip(" .*_\n$"):
        return False
    if _OPEN_END.search(rest.rstrip()):
        return True
    return bool(_NEW_TASK.search(rest)) and bool(_HEADER.search(text[:start]) or _EXAMPLE.search(text[:start]))


def may_ask(text: str) -> bool:
    """Whether `own_turn` may have something to cut."""
    if ":" not in text and "：" not in text:
        return False
    lower = text.lower()
    return any(word in lower for word in _HEADER_WORDS) and _HEADER.search(text, 1) is not None


def own_turn(text: str, answered: list[int]) -> str:
    """`text` up to the question that it goes on to ask itself after its first answer (`answered`: where answers stand)."""
    header = _HEADER.search(text)
    if header is None or not answered or header.start() < min(answered) or header.start() == 0:
        return text
    return text[: header.start()]


def own_boxes(text: str, boxes: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The boxes without empty ones, and without those at the end that quote another answer, as far as one is left."""
    boxes = [box for box in boxes if box[2].strip()] or boxes
    while len(boxes) > 1 and _FOREIGN_BOX.search(_sentence_before(text, boxes[-1][0], boxes[-2][1])):
        boxes = boxes[:-1]
    return boxes


def _sentence_before(text: str, start: int, earliest: int) -> str:
    before = text[max(earliest, start - _SENTENCE) : start]
    ends = [match.end() for match in SENTENCE_END.finditer(before)]
    return before[ends[-1] :] if ends else before


def is_corrected(tail: str, start: int) -> bool:
    """Whether the statement at `start` of `tail`, which follows a box, corrects it."""
    return bool(_WEAK.search(tail[:start])) and is_own(tail, start)


def is_concluded(tail: str, start: int) -> bool:
    """Whether there was work between a box and the final answer that is stated at `start` of `tail`: the box was a step."""
    return "=" in tail[:start] and len(tail[:start].split()) >= _WORK and is_own(tail, start)


def is_withdrawn(tail: str) -> re.Match[str] | None:
    """Where `tail`, which follows a box, says that the box is wrong."""
    match = _WITHDRAWN.search(tail)
    return match if match and not _FOREIGN.search(match.group()) else None


def corrected_value(tail: str) -> int | None:
    """Where the value begins in "it should be 14", in words that are the response's own."""
    found = None
    for match in _SHOULD_BE.finditer(tail):
        if not _FOREIGN.search(_sentence_before(tail, match.start(), 0)):
            found = match.end()
    return found


def breaks_off(rest: str) -> bool:
    """Whether `rest`, which follows a value in the last sentence, shows that the value is not what was concluded."""
    return bool(_GOES_ON.search(rest) or _OPEN_END.search(rest.rstrip()))


def is_open(text: str) -> bool:
    """Whether `text` ends in the middle of a sentence."""
    return bool(_OPEN_END.search(text.rstrip()))
