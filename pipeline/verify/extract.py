r"""Finds the final answer in a response. Every pattern is linear: no nested repetition over the same characters.

In the order of what binds most: `<answer>` tags; then whichever of these stands last: `\boxed{}` (and `\fbox{}`),
`####`, "the final answer is", "Answer:". A response without any of them may be an answer as a whole, or end in a
sentence that states one ("Thus $x = 3$.", "so there are 12 of them."); a number that merely occurs is no answer.
"""

import re
from dataclasses import dataclass
from itertools import pairwise

WINDOW = 40_000
"""Characters at the end of a response that are looked at."""
LONGEST_PLAIN = 300
"""A longer response without any marker is not an answer as a whole."""

LONGEST_SENTENCE = 2000

_THINK_END = re.compile(r"</(?:think|thinking|thought|reasoning)>|<\|end_of_thought\|>|◁/think▷", re.I)
_THINK_START = re.compile(r"<(?:think|thinking|thought|reasoning)>|<\|begin_of_thought\|>|◁think▷", re.I)
_TURN_END = re.compile(
    r"<\|im_end\|>|<\|im_start\|>\s*(?:user|system)|<\|endoftext\|>|<\|eot_id\|>|<\|end_of_text\|>|<\|eom_id\|>|</s>|<eos>|<end_of_turn>"
)
_SPECIAL = ("hink", "hought", "easoning", "HINK", "HOUGHT", "EASONING", "<|", "</s>", "<eos>", "<end_of_turn>", "◁")
"""One of these is in every text that the three patterns above match somewhere (in sane spellings)."""
_TAG = re.compile(r"<(/?)answer>", re.I)
_BOX = re.compile(r"\\{1,4}(?:boxed|fbox|framebox)(?![A-Za-z])\s*(\{)?|\\.|[{}]", re.S)
_FIRST_BOX = re.compile(r"\\{1,4}(?:boxed|fbox|framebox)(?![A-Za-z])")
_MARKER = re.compile(
    r"####|(?:\bfinal\s+answer\b|\banswer\b|答案)[^\S\n]{0,3}(?:\*\*)?[^\S\n]{0,3}(?:(?:is|are|be|equals|为|是)\b(?:\s+(?:simply|therefore|thus|then|just|exactly|also))?"
    r"[^\S\n]{0,3}[:：]?|[:：=]|\n)(?:\s{0,3}\*\*)?|\banswer\s+(?:to|of|for)\b[^.\n]{0,120}?\b(?:is|are)\b\s*:?"
    r"|\bAnswer(?=\s?(?:\$|\\\(|\\\[))",
    re.I,
)
_STRONG = re.compile(r"####|final", re.I)
_CORRECTED = re.compile(
    r"\b(?:wait|actually|correct(?:ion|ed|ing)?|mistake|wrong|error|instead|re-?check|recalculat|redo|however|not right"
    r"|incorrect|but)\b",
    re.I,
)
_ALTERNATIVE = re.compile(r"\b(?:or|either|alternatively|maybe|perhaps|possibly|might)\b", re.I)
_CONNECTOR = re.compile(r"\b(?:and|or)\b|[,;&]|\\quad|\\text", re.I)
_HOPE = re.compile(r"(?:I hope (?:it|this) is correct|I hope this helps|Hope this helps)[.!]?\s*$", re.I)
_SENTENCE_END = re.compile(r"\.(?=\s|$|\*)|\n|(?<=[^\d])\.(?=[A-Z])|[!?](?=\s+[A-Z])|。")
_MATH = re.compile(
    r"\$\$(?P<a>.+?)\$\$|(?<!\\)\$(?P<b>(?:\\.|[^$\n\\])+?)(?<!\\)\$|\\\((?P<c>[^\n]+?)\\\)|\\\[(?P<d>.+?)\\\]", re.S
)
_DISPLAY = re.compile(r"\$\$(?P<a>[^$]+)\$\$\s*\.?\s*$|\\\[(?P<b>(?:(?!\\\[|\\\]).)+)\\\]\s*\.?\s*$", re.S)
_CUE = re.compile(
    r"(?:\b(?:is|are|be|was|were|by|equals?|get|gets|have|has|gives?|find|found|obtain|yields?|thus|therefore|hence|so|then|that|it's|its|at|answer|contains?|makes?|exactly|approximately|about)\b"
    r"|[:=≈]|=>|⇒|→)[ \t]*\**[ \t]*",
    re.I,
)
_DENIED = re.compile(r"(?:\b(?:not|never|cannot)|n't|n’t)\s+$", re.I)
_VALUE = re.compile(r"[$€£¥]?\s?[-+−]?(?:\d|\.\d|\\frac|\\sqrt|\\pi|\()")
_LEADING_NUMBER = re.compile(r"[$€£¥]?\s?([-+−]?\d[\d,]*+(?:\.\d++)?+(?:\s?/\s?\d++)?+(?:\s?(?:\\?%|percent))?+)")
_GLUED = re.compile(r"(?<=[\d)}])(and|or)(?=[A-Z(\\])")
_UNIT_LIKE = re.compile(r"\s?[€$£¥²³°]|,?\s?(?!and\b|or\b)[A-Za-z]{2,}|\s?[mgslLh](?:[²³/]|\b)")
_ANY_NUMBER = re.compile(r"(?<![\w.,/^\\])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?(?:\s?\\?%)?(?![\w^/])")
_WORD = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{2,}")
_MATH_WORDS = {
    "and",
    "or",
    "sqrt",
    "sin",
    "cos",
    "tan",
    "log",
    "ln",
    "pi",
    "exp",
    "frac",
    "infinity",
    "percent",
    "pct",
    "units",
    "in",
}


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


def extract(response: str, plain_response: bool = True) -> Extraction:
    """The final answer of `response`. Never raises."""
    text = visible(response)
    if not text:
        return NOTHING
    if "<answer>" in text.lower():
        tagged = _tag_contents(text)
        if tagged:
            return _tagged(tagged)
    boxes = find_boxes(text) if "box" in text else []
    marker = _last_marker(text)
    if boxes and (marker is None or marker.start() < boxes[-1][0]):
        return _from_boxes(text, boxes)
    if marker is not None:
        stated = _from_marker(text, marker)
        if stated.answer is not None and (not boxes or _looks_like_answer(stated)):
            return stated
        if boxes:
            return _from_boxes(text, boxes)
        if stated.answer is not None:
            return stated
    return _unmarked(text) if plain_response else NOTHING


def _last_marker(text: str) -> re.Match[str] | None:
    """The last phrase that announces an answer. Looked for from the first of its words on: most of a response is
    mathematics, and this pattern would be tried at every character of it."""
    lower = text.lower()
    places = [place for word in ("answer", "####", "答案") if (place := lower.find(word)) >= 0]
    if not places:
        return None
    marker = None
    for match in _MARKER.finditer(text, max(0, min(places) - 40) if len(lower) == len(text) else 0):
        marker = match
    return marker


def visible(response: str) -> str:
    """What counts of a response: after its thinking, within its own turn."""
    text = response[-WINDOW:]
    if any(mark in text for mark in _SPECIAL):
        end = None
        for match in _THINK_END.finditer(text):
            end = match.end()
        if end is not None:
            text = text[end:]
        if _THINK_START.search(text):  # it is still thinking: nothing was answered
            text = text[: _THINK_START.search(text).start()]  # type: ignore[union-attr]
        if text.startswith("<|im_start|>assistant"):
            text = text[len("<|im_start|>assistant") :]
        turn = _TURN_END.search(text)
        if turn:
            text = text[: turn.start()]
    elif len(response) > WINDOW and _THINK_START.search(response[:200]):
        return "" if not _THINK_END.search(response) else text.strip()
    return text.strip()


def find_boxes(text: str) -> list[tuple[int, int, str]]:
    """(start, end, content) of every outermost box, in order; a box that never closes ends with its line."""
    boxes: list[tuple[int, int, str]] = []
    stack: list[tuple[int, int] | None] = []  # for each open brace: None, or the box's start and content's start
    inside = 0
    first = _FIRST_BOX.search(text)
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


def _tag_contents(text: str) -> list[str]:
    contents: list[str] = []
    start: int | None = None
    for tag in _TAG.finditer(text):
        if not tag.group(1):
            start = tag.end()
        elif start is not None:
            contents.append(text[start : tag.start()])
            start = None
    return contents


def _tagged(tagged: list[str]) -> Extraction:
    inner = tagged[-1].strip()
    differ = len({re.sub(r"\s+", "", part) for part in tagged}) > 1
    boxes = find_boxes(inner)
    if boxes:
        found = _from_boxes(inner, boxes)
    else:
        marker = _last_marker(inner)
        found = _from_marker(inner, marker) if marker is not None else Extraction(inner or None)
    return Extraction(found.answer, found.prose, found.hedged or differ, found.several)


def _from_boxes(text: str, boxes: list[tuple[int, int, str]]) -> Extraction:
    """The last box, with those that are joined to it (`\\boxed{1} and \\boxed{2}`)."""
    group = [boxes[-1]]
    hedged = False
    last = _squeeze(boxes[-1][2])
    for box in reversed(boxes[:-1]):
        gap = text[box[1] : group[0][0]]
        same = _squeeze(box[2]) == last
        if not same and len(gap) <= 80 and _joins(gap):
            group.insert(0, box)
            continue
        if not same and len(gap) <= 200 and not _CORRECTED.search(gap) and not hedged:
            hedged = len(group) == 1
        break
    answers = list(dict.fromkeys(box[2].strip() for box in group))
    return Extraction(", ".join(answers) or None, hedged=hedged, several=len(answers) > 1)


def _joins(gap: str) -> bool:
    bare = re.sub(r"\\[()\[\]]|[$*\s]|\\text\b|\\quad|\\qquad", " ", gap)
    if "\n\n" in gap.strip(" ") or _SENTENCE_END.search(gap.strip()):
        return False
    words = _WORD.findall(bare)
    return (not words and not re.search(r"\d", re.sub(r"_\{?\d+\}?", "", bare))) or (
        len(words) <= 6 and bool(_CONNECTOR.search(gap))
    )


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text)


def _from_marker(text: str, marker: re.Match[str]) -> Extraction:
    rest = text[marker.end() : marker.end() + LONGEST_SENTENCE]
    rest = _HOPE.sub("", rest).lstrip(" *:\n\t_")
    sentence = _first_sentence(rest)
    found = _in_sentence(sentence)
    if found.answer is None:
        return found
    before = text[max(0, marker.start() - 200) : marker.start()]
    earlier = None
    for match in _MARKER.finditer(before):
        earlier = match
    if (
        earlier is not None
        and (_STRONG.search(marker.group()) or _ALTERNATIVE.search(before[earlier.end() :]))
        and not _CORRECTED.search(before[earlier.end() :])
    ):
        other = _in_sentence(_first_sentence(before[earlier.end() :].lstrip(" *:\n\t_")))
        if other.answer is not None and _looks_like_answer(other) and _squeeze(other.answer) != _squeeze(found.answer):
            return Extraction(found.answer, found.prose, True)
    return found


def _first_sentence(rest: str) -> str:
    if rest.startswith(("$$", "\\[")):
        closing = rest.find("$$" if rest[0] == "$" else "\\]", 2)
        return rest[: closing + 2] if closing > 0 else rest
    if rest.startswith("\\begin"):
        return rest
    end = _SENTENCE_END.search(rest)
    return rest[: end.start()] if end else rest


def _in_sentence(sentence: str) -> Extraction:
    """The answer in what follows a marker."""
    sentence = sentence.strip().strip("*_").strip()
    if not sentence:
        return NOTHING
    boxes = find_boxes(sentence) if "box" in sentence else []
    if boxes:
        return _from_boxes(sentence, boxes)
    spans = list(_MATH.finditer(sentence))
    outside = _MATH.sub(" ", sentence)
    words = [word for word in _WORD.findall(outside) if word.lower() not in _MATH_WORDS]
    if spans:
        stated = _stated_after_cue(sentence) if len(words) > 2 else None
        if stated is not None:
            return stated
        if len(words) <= 2 or (len(spans) > 1 and len(words) <= 4):
            return Extraction(sentence, several=len(spans) > 1)
        return Extraction(_content(spans[-1]))
    if len(words) > 2:
        stated = _stated_after_cue(sentence)
        if stated is not None:
            return stated
        numbers = _ANY_NUMBER.findall(sentence)
        if len(numbers) == 1:
            return Extraction(numbers[0], prose=True)
    return Extraction(sentence, prose=True)


def _content(span: re.Match[str]) -> str:
    return next(part for part in span.groups() if part is not None).strip()


def _looks_like_answer(found: Extraction) -> bool:
    answer = found.answer or ""
    return bool(re.search(r"\d|\\|\$", answer)) or (not found.prose) or len(answer) <= 2


def _stated_after_cue(sentence: str) -> Extraction | None:
    """The value right after the last `is`, `are`, `=` and the like, or None."""
    masked = _MATH.sub(lambda m: "\x01" * len(m.group()), sentence)
    for cue in reversed(list(_CUE.finditer(masked))):
        if _DENIED.search(masked, max(0, cue.start() - 16), cue.start()):
            return None
        rest = sentence[cue.end() :]
        if masked[cue.end() : cue.end() + 1] == "\x01":
            return _run_of_math(rest)
        if not _VALUE.match(rest):
            continue
        number = _LEADING_NUMBER.match(rest)
        if number and _UNIT_LIKE.match(rest, number.end()):
            return Extraction(number.group(1), prose=True)
        return Extraction(rest.strip(), prose=True)
    return None


def _run_of_math(rest: str) -> Extraction | None:
    """The formulas at the start of `rest`, as far as `and`, `or`, commas join them, and a unit after them."""
    spans = list(_MATH.finditer(rest))
    if not spans:
        return None
    end = spans[0].end()
    count = 1
    for left, right in pairwise(spans):
        if not re.fullmatch(r"\s*(?:,|;|and|or|,\s*and|,\s*or)\s*", rest[left.end() : right.start()]):
            break
        end, count = right.end(), count + 1
    return Extraction(rest[:end] if count > 1 else _content(spans[0]), several=count > 1)


def _unmarked(text: str) -> Extraction:
    text = _HOPE.sub("", text).strip()
    if len(text) <= LONGEST_PLAIN and ("\n" not in text or "\\begin" in text or _is_one_formula(text)):
        text = _GLUED.sub(r" \1 ", text)
        words = [
            word
            for word in _WORD.findall(_MATH.sub(" ", re.sub(r"\\text\w*\s*\{[^{}]*\}", " ", text)))
            if word.lower() not in _MATH_WORDS
        ]
        if not words or (len(words) <= 3 and not _CUE.search(text)) or _is_one_formula(text):
            return Extraction(text, several=len(_MATH.findall(text)) > 1)
    display = _DISPLAY.search(text[-3000:])
    if display:
        return Extraction((display.group("a") or display.group("b")).strip())
    last = text.rsplit("\n", 1)[-1].strip()[-LONGEST_SENTENCE:]
    sentences = [part.strip() for part in _SENTENCE_END.split(last) if part and part.strip(" *$")]
    if not sentences or not last.strip(" $.*\\()[]"):
        return NOTHING
    return _stated_after_cue(sentences[-1]) or NOTHING


def _is_one_formula(text: str) -> bool:
    match = _MATH.fullmatch(text.rstrip(" ."))
    return match is not None and text.count("$") <= 4
