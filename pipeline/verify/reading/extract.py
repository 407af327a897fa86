r"""Finds the final answer in a response. Every pattern is linear: no nested repetition over the same characters.

In the order of what binds most: `<answer>` tags; the last `\boxed{}` (or `\fbox{}`), unless a later statement corrects
it; the last `####`, "the final answer is", "Answer:". A response without any of them may be an answer as a whole, or end
in a sentence that states one ("Thus $x = 3$.", "so there are 12 of them."); a number that merely occurs is no answer.
Statements that are not about the response's own answer (a reference, an example, a check) never count: claims.py.
"""

import re

from pipeline.verify.reading import claims
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
_TAG = re.compile(r"<(/?)answer>", re.I)


def _marker(nouns: str, verbs: str, extra: str = "", chosen: str = "") -> re.Pattern[str]:
    return re.compile(
        rf"####|(?:\bfinal\s+answer\b|\banswer\b|{nouns})[^\S\n]{{0,3}}(?:\*\*)?[^\S\n]{{0,3}}"
        rf"(?:(?:(?:is|are|be|equals|{verbs})\b{extra})(?:\s+(?:simply|therefore|thus|then|just|exactly|also|donc|pues))?"
        r"[^\S\n]{0,3}[:：]?|[:：=]|\n)(?:\s{0,3}\*\*)?|\banswer\s+(?:to|of|for)\b[^.\n]{0,120}?\b(?:is|are)\b\s*:?"
        rf"{chosen}|\bcorrect\s+(?:option|choice)\s+is\b\s*:?|\bAnswer(?=\s?(?:\$|\\\(|\\\[))",
        re.I,
    )


_MARKER = _marker(NOUNS, VERBS)
_MARKER_ABROAD = _marker(f"{NOUNS}|{NOUNS_ABROAD}", f"{VERBS}|{VERBS_ABROAD}", f"|{VERBS_WITHOUT_SPACES}", CHOSEN)
_STRONG = re.compile(r"####|final", re.I)
_ALTERNATIVE = re.compile(r"\b(?:or|either|alternatively|maybe|perhaps|possibly|might)\b", re.I)
_HOPE = re.compile(r"(?:I hope (?:it|this) is correct|I hope this helps|Hope this helps)[.!]?\s*$", re.I)
_FENCE = re.compile(r"^```\w*\n|\n```\s*$")
_DISPLAY = re.compile(r"\$\$(?P<a>[^$]+)\$\$\s*\.?\s*$|\\\[(?P<b>(?:(?!\\\[|\\\]).)+)\\\]\s*\.?\s*$", re.S)
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
    marker = _last_marker(text)
    if claims.may_ask(text):
        places = [box[0] for box in boxes[:1]] + ([first.start()] if (first := _first_own_marker(text)) else [])
        if len(turn := claims.own_turn(text, places)) < len(text):
            text, boxes, marker = turn, [box for box in boxes if box[0] < len(turn)], _last_marker(turn)
    if boxes:
        boxes = claims.own_boxes(text, boxes)
        return _correction(text, boxes[-1][1], marker) or from_boxes(text, boxes, hedge_distance)
    if marker is not None and not _counts(text, marker):
        marker = next((match for match in reversed(_markers(text)) if _counts(text, match)), None)
        plain_response = plain_response and marker is not None
    if marker is not None:
        stated = _from_marker(text, marker)
        if stated.answer is not None:
            return stated
    return _unmarked(text) if plain_response else NOTHING


def _correction(text: str, end: int, marker: re.Match[str] | None) -> Extraction | None:
    """What the response states in place of its last box, which ends at `end`; None where the box stands."""
    tail = text[end : end + LONGEST_SENTENCE]
    start = marker.start() - end if marker is not None else -1
    if (
        marker is not None
        and start >= 0
        and (
            claims.is_corrected(text[end:], start)
            or (_STRONG.search(marker.group()) and claims.is_concluded(text[end:], start))
        )
    ):
        stated = _from_marker(text, marker)
        if stated.answer is not None and looks_like_answer(stated):
            return stated
    if claims.is_withdrawn(tail) is None:
        return None
    at = claims.corrected_value(tail)
    stated = in_sentence(first_sentence(tail[at:])) if at is not None else NOTHING
    return stated if stated.answer is not None and looks_like_answer(stated) else Extraction(tail, hedged=True)


def _counts(text: str, marker: re.Match[str]) -> bool:
    if not claims.is_own(text, marker.start()):
        return False
    sentence = first_sentence(text[marker.end() :].lstrip(" *:\n\t_"))
    end = text.find(sentence, marker.end()) + len(sentence)
    return not claims.is_left_behind(text, marker.start(), end)


def answered_before_cut(response: str) -> str:
    """A response that the length limit ended, up to its last complete box or `</answer>`; empty where it has neither."""
    text = visible(response)
    ends = [end for start, end, _ in find_boxes(text) if _is_closed(text[start:end])] if "box" in text else []
    tag = text.lower().rfind("</answer>")
    return text[: max([*ends, tag + len("</answer>") if tag >= 0 else 0])]


def _is_closed(box: str) -> bool:
    braces = re.findall(r"(?<!\\)[{}]", box)
    return not braces or (braces[-1] == "}" and braces.count("{") == braces.count("}"))


def _last_marker(text: str) -> re.Match[str] | None:
    """The last phrase that announces an answer. Looked for around its words only: most of a response is mathematics, and
    this pattern would be tried at every character of it."""
    lower = text.lower()
    words, pattern = (ANNOUNCING, _MARKER) if text.isascii() else ((*ANNOUNCING, *ANNOUNCING_ABROAD), _MARKER_ABROAD)
    last = max([lower.rfind(word) for word in words])
    if last < 0:
        return None
    if len(lower) == len(text) and (marker := _last_match(pattern, text, max(0, last - 40))) is not None:
        return marker
    first = min([place for word in words if (place := lower.find(word)) >= 0])
    return _last_match(pattern, text, max(0, first - 40) if len(lower) == len(text) else 0)


def _markers(text: str) -> list[re.Match[str]]:
    return list((_MARKER if text.isascii() else _MARKER_ABROAD).finditer(text))


def _first_own_marker(text: str) -> re.Match[str] | None:
    return next((match for match in _markers(text) if _counts(text, match)), None)


def _last_match(pattern: re.Pattern[str], text: str, start: int) -> re.Match[str] | None:
    marker = None
    for match in pattern.finditer(text, start):
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
    rest = _HOPE.sub("", rest).lstrip(" *:\n\t_")
    sentence = first_sentence(rest)
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
    if len(text) <= LONGEST_PLAIN and ("\n" not in text or "\\begin" in text or is_one_formula(text)):
        text = without_contrast(_GLUED.sub(r" \1 ", text))
        words = [
            word
            for word in WORD.findall(MATH.sub(" ", re.sub(r"\\text\w*\s*\{[^{}]*\}", " ", text)))
            if word.lower() not in MATH_WORDS
        ]
        if not text.isascii():
            words += WORDS_ABROAD.findall(text)
        if claims.is_open(text) and words:
            return NOTHING
        if not words or (len(words) <= 3 and not cues(text).search(text)) or is_one_formula(text):
            return Extraction(text, several=len(MATH.findall(text)) > 1)
    display = _DISPLAY.search(text[-3000:])
    if display:
        return Extraction((display.group("a") or display.group("b")).strip())
    last = text.rsplit("\n", 1)[-1].strip()[-LONGEST_SENTENCE:]
    sentences = [part.strip() for part in SENTENCE_END.split(last) if part and part.strip(" *$")]
    if not sentences or not last.strip(" $.*\\()[]") or not claims.is_own(text, len(text) - len(sentences[-1])):
        return NOTHING
    if claims.is_open(sentences[-1]):
        return NOTHING
    return stated_after_cue(sentences[-1], concluded=True) or NOTHING
