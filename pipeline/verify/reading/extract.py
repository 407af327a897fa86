r"""Finds the final answer in a response. Every pattern is linear: no nested repetition over the same characters.

In the order of what binds most: `<answer>` tags; then whichever of these stands last: `\boxed{}` (and `\fbox{}`),
`####`, "the final answer is", "Answer:". A response without any of them may be an answer as a whole, or end in a
sentence that states one ("Thus $x = 3$.", "so there are 12 of them."); a number that merely occurs is no answer.
"""

import re

from pipeline.verify.reading.asides import (
    CORRECTION,
    in_its_place,
    is_aside,
    is_denied,
    is_echo,
    is_plan,
    is_unfinished,
    is_withdrawn,
    may_ask_more,
    own_boxes,
    without_other_questions,
)
from pipeline.verify.reading.boxes import (
    CORRECTED,
    HEDGE_DISTANCE,
    NOTHING,
    SENTENCE_END,
    WORD,
    Extraction,
    find_boxes,
    from_boxes,
    squeeze,
)
from pipeline.verify.reading.languages import (
    ANNOUNCING,
    ANNOUNCING_ABROAD,
    CHOSEN,
    NOUNS,
    NOUNS_ABROAD,
    VERBS,
    VERBS_ABROAD,
    VERBS_WITHOUT_SPACES,
    WORDS_ABROAD,
)
from pipeline.verify.reading.response import visible
from pipeline.verify.reading.sentences import (
    LONGEST_SENTENCE,
    MATH,
    MATH_WORDS,
    cues,
    first_sentence,
    in_sentence,
    is_one_formula,
    looks_like_answer,
    stated_after_cue,
    without_contrast,
)

LONGEST_PLAIN = 300
"""A longer response without any marker is not an answer as a whole."""
FAR = 80
"""Characters between a box and a later statement of the final answer."""
_TAG = re.compile(r"<(/?)answer>", re.I)


_FOUR_MARKS = r"####(?<!\S####)(?!#)(?!\s*\d+[.)]\s+\S)(?![^\S\n]*\**[A-Za-z][^\n]*\n\s*\S)"
"""`#### 72`. `#### Step 2` and `#### 3. Check` are headings of what follows."""


def _marker(nouns: str, verbs: str, extra: str = "") -> re.Pattern[str]:
    return re.compile(
        rf"{_FOUR_MARKS}|(?:\bfinal\s+answer\b|\banswer\b|{nouns})[^\S\n]{{0,3}}(?:\*\*)?[^\S\n]{{0,3}}"
        rf"(?:(?:(?:is|are|(?:(?:should|must|will|has to)\s+)?be|equals|{verbs})\b{extra})"
        r"(?:\s+(?:simply|therefore|thus|then|just|exactly|also|donc|pues))?"
        r"[^\S\n]{0,3}[:：]?|[:：=]|\n)(?:\s{0,3}\*\*)?|\banswer\s+(?:to|of|for)\b[^.\n]{0,120}?\b(?:is|are)\b\s*:?"
        r"|\bcorrect\s+(?:option|choice)\s+is\b\s*:?|\bAnswer(?=\s?(?:\$|\\\(|\\\[))",
        re.I,
    )


_MARKER = _marker(NOUNS, VERBS)
_MARKER_ABROAD = re.compile(
    _marker(f"{NOUNS}|{NOUNS_ABROAD}", f"{VERBS}|{VERBS_ABROAD}", f"|{VERBS_WITHOUT_SPACES}").pattern + f"|{CHOSEN}",
    re.I,
)
_STRONG = re.compile(r"####|final", re.I)
_ALTERNATIVE = re.compile(r"\b(?:or|either|alternatively|maybe|perhaps|possibly|might)\b", re.I)
_HOPE = re.compile(r"(?:I hope (?:it|this) is correct|I hope this helps|Hope this helps)[.!]?\s*$", re.I)
_FENCE = re.compile(r"^```\w*\n|\n```\s*$")
_DISPLAY = re.compile(r"\$\$(?P<a>[^$]+)\$\$\s*\.?\s*$|\\\[(?P<b>(?:(?!\\\[|\\\]).)+)\\\]\s*\.?\s*$", re.S)
_CORRECT_OPTION = re.compile(
    r"\b(?:option|choice)\s+\**\(?([A-J])\)?\**\s+is\s+(?:the\s+)?(?:correct|right|answer)\b", re.I
)
_IS_THE_ANSWER = re.compile(
    r"(?:(?:so|thus|hence|therefore),?\s+)?(\S{1,30})\s+is\s+(?:the|our|my)\s+(?:final\s+|correct\s+)?answer\b", re.I
)
_HEADING = re.compile(r"#{1,3}\s+")
_BOLD = re.compile(r"\*\*([^*\n]{1,80}?)\*\*")
_BOLD_VALUE = re.compile(r"\*\*(?=\$?[-+−]?[$€£¥]?(?:\d|\\))([^*\n]{1,80}?)\*\*|`(-?\d[\d,./]*)`")
_GLUED = re.compile(r"(?<=[\d)}])(and|or)(?=[A-Z(\\])")


def extract(response: str, plain_response: bool = True, hedge_distance: int = HEDGE_DISTANCE) -> Extraction:
    """The final answer of `response`. Never raises."""
    text = visible(response)
    if not text:
        return NOTHING
    if "<answer>" in text.lower():
        tagged = _tag_contents(text)
        if tagged:
            return _tagged(tagged)
    boxes = find_boxes(text) if "box" in text else []
    if boxes and len(shorter := without_other_questions(text, boxes[0][1])) < len(text):
        text, boxes = shorter, [box for box in boxes if box[1] <= len(shorter)]
    if not boxes and may_ask_more(text) and (answered := _first_marker(text)) is not None:
        text = without_other_questions(text, answered)
    boxes = own_boxes(text, boxes) if len(boxes) > 1 else boxes
    marker = _last_marker(text, boxes[-1][1] if boxes else None)
    if boxes:
        if is_denied(text, boxes[-1][0]):
            return Extraction(boxes[-1][2].strip() or None, hedged=True)
        if marker is not None and _replaces(text, boxes[-1][1], marker):
            stated = _from_marker(text, marker)
            if stated.answer is not None and looks_like_answer(stated):
                return stated
        return _in_place_of_box(text[boxes[-1][1] :]) or from_boxes(text, boxes, hedge_distance)
    if (marker is None or not _STRONG.search(marker.group())) and is_unfinished(text):
        return NOTHING
    if marker is not None and is_echo(text, marker.start(), marker.end()):
        return NOTHING
    if marker is not None:
        stated = _from_marker(text, marker)
        if stated.answer is not None:
            return stated
    return _unmarked(text) if plain_response else NOTHING


def answered_before_cut(response: str) -> str:
    """A response that the length limit ended, up to its last complete box or `</answer>`; empty where it has neither."""
    text = visible(response)
    ends = [end for start, end, _ in find_boxes(text) if _is_closed(text[start:end])] if "box" in text else []
    tag = text.lower().rfind("</answer>")
    return text[: max([*ends, tag + len("</answer>") if tag >= 0 else 0])]


def graded_part(text: str, finish_reason: str | None) -> str:
    """The response as far as it may hold an answer: after a cut by the length limit, only what was set apart before it."""
    return answered_before_cut(text) if finish_reason == "length" else text


def _is_closed(box: str) -> bool:
    braces = re.findall(r"(?<!\\)[{}]", box)
    return not braces or (braces[-1] == "}" and braces.count("{") == braces.count("}"))


def _in_place_of_box(tail: str) -> Extraction | None:
    """What follows the last box, where that takes it back: another value, or none that could be read."""
    if not is_withdrawn(tail):
        return None
    at = in_its_place(tail)
    stated = in_sentence(first_sentence(tail[at:])) if at is not None else NOTHING
    return stated if stated.answer is not None and looks_like_answer(stated) else Extraction(tail.strip(), hedged=True)


def _first_marker(text: str) -> int | None:
    """Where the first announcement of the response's own answer ends, before any question is asked."""
    for match in (_MARKER if text.isascii() else _MARKER_ABROAD).finditer(text):
        if without_other_questions(text[: match.start()], 0) != text[: match.start()]:
            return None
        if not is_aside(text, match.start(), match.end()):
            return match.end()
    return None


def _replaces(text: str, box_end: int, marker: re.Match[str]) -> bool:
    """Whether what `marker` announces takes the place of the last box: it corrects the box, or concludes a solution in
    which the box was of some step far before."""
    if marker.start() < box_end:
        return False
    gap = text[box_end : marker.start()]
    return bool(CORRECTION.search(gap)) or (len(gap) > FAR and _STRONG.search(marker.group()) is not None)


def _last_marker(text: str, box_end: int | None = None) -> re.Match[str] | None:
    """The last phrase that announces an answer of the response. It is searched for around its words only: most of a
    response is mathematics, and this pattern would be tried at every character of it."""
    lower = text.lower()
    words, pattern = (ANNOUNCING, _MARKER) if text.isascii() else ((*ANNOUNCING, *ANNOUNCING_ABROAD), _MARKER_ABROAD)
    last = max(map(lower.rfind, words))
    if last < 0:
        return None
    if (
        len(lower) == len(text)
        and (marker := _last_match(pattern, text, _with_final(lower, last), box_end)) is not None
    ):
        return marker
    first = min([place for word in words if (place := lower.find(word)) >= 0])
    return _last_match(pattern, text, max(0, first - 40) if len(lower) == len(text) else 0, box_end)


def _with_final(lower: str, word: int) -> int:
    """Where the phrase begins whose `answer` stands at `word`: it may be `final answer`."""
    before = lower[:word].rstrip()
    return len(before) - len("final") if before.endswith("final") else word


def _last_match(pattern: re.Pattern[str], text: str, start: int, box_end: int | None) -> re.Match[str] | None:
    marker = None
    for match in pattern.finditer(text, start):
        if not is_aside(text, match.start(), match.end(), box_end is not None and match.start() >= box_end):
            marker = match
    return marker


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
        found = from_boxes(inner, boxes)
    else:
        marker = _last_marker(inner)
        found = _from_marker(inner, marker) if marker is not None else Extraction(inner or None)
    return Extraction(found.answer, found.prose, found.hedged or differ, found.several)


def _from_marker(text: str, marker: re.Match[str]) -> Extraction:
    rest = text[marker.end() : marker.end() + LONGEST_SENTENCE]
    rest = (_HOPE.sub("", rest) if "ope " in rest else rest).lstrip(" *:\n\t_")
    sentence = first_sentence(rest)
    if "?" in (sentence[-1:], rest[len(sentence) : len(sentence) + 1]):  # `So is the answer 12?`
        return NOTHING
    found = in_sentence(sentence)
    if found.answer is None:
        return found
    before = text[max(0, marker.start() - 200) : marker.start()]
    earlier = _last_marker(before)
    if (
        earlier is not None
        and (_STRONG.search(marker.group()) or _ALTERNATIVE.search(before[earlier.end() :]))
        and not CORRECTED.search(before[earlier.end() :])
    ):
        other = in_sentence(first_sentence(before[earlier.end() :].lstrip(" *:\n\t_")))
        if other.answer is not None and looks_like_answer(other) and squeeze(other.answer) != squeeze(found.answer):
            return Extraction(found.answer, found.prose, True)
    return found


def _unmarked(text: str) -> Extraction:
    text = _FENCE.sub("", _HOPE.sub("", text)).strip()
    if text.startswith("#") and "\n" not in text:
        text = _HEADING.sub("", text, count=1)
    if len(text) <= LONGEST_PLAIN and ("\n" not in text or "\\begin" in text or is_one_formula(text)):
        text = without_contrast(_GLUED.sub(r" \1 ", text))
        words = [
            word
            for word in WORD.findall(MATH.sub(" ", re.sub(r"\\text\w*\s*\{[^{}]*\}", " ", text)))
            if word.lower() not in MATH_WORDS
        ]
        if not text.isascii():
            words += WORDS_ABROAD.findall(text)
        if not words or (len(words) <= 3 and not cues(text).search(text)) or is_one_formula(text):
            return Extraction(text, several=len(MATH.findall(text)) > 1)
    display = _DISPLAY.search(text[-3000:])
    if display:
        return Extraction((display.group("a") or display.group("b")).strip())
    last = text.rsplit("\n", 1)[-1].strip()[-LONGEST_SENTENCE:]
    sentences = [part.strip() for part in SENTENCE_END.split(last) if part and part.strip(" *$")]
    if not sentences or not last.strip(" $.*\\()[]"):
        return NOTHING
    if is_plan(sentences[-1]) or _speaks_of_another(sentences[-1]):
        return NOTHING
    return stated_after_cue(sentences[-1]) or _set_apart(last, sentences[-1])


def _speaks_of_another(sentence: str) -> bool:
    """Whether `sentence` is about an answer that is not the response's own."""
    if "answer" not in sentence.lower():
        return False
    return is_aside(sentence, 0, len(sentence)) or any(
        is_aside(sentence, found.start(), found.end()) for found in _MARKER.finditer(sentence)
    )


def _set_apart(line: str, sentence: str) -> Extraction:
    """A last line in bold as a whole, "option (D) is correct", or the one value that a last sentence has in bold or as code."""
    whole = _BOLD.fullmatch(line.rstrip(" ."))
    if whole and not whole[1].rstrip().endswith(":"):
        return Extraction(whole[1].strip())
    if option := _CORRECT_OPTION.search(sentence) or _IS_THE_ANSWER.match(sentence):
        return Extraction(option[1])
    values = _BOLD_VALUE.findall(sentence)
    return Extraction("".join(values[0]).strip(" .:"), prose=True) if len(values) == 1 else NOTHING
