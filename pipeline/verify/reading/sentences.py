"""Reads answers in sentences: what follows `the answer is`, and what a last sentence states."""

import re
from itertools import pairwise

from pipeline.verify.reading.boxes import NOTHING, SENTENCE_END, WORD, Extraction, find_boxes, from_boxes
from pipeline.verify.reading.languages import CUES_ABROAD, DENIED_ABROAD, WORDS_ABROAD

LONGEST_SENTENCE = 2000
MATH = re.compile(
    r"\$\$(?P<a>.+?)\$\$|(?<!\\)\$(?P<b>(?:\\.|[^$\n\\])+?)(?<!\\)\$(?!\d)|\\\((?P<c>[^\n]+?)\\\)|\\\[(?P<d>.+?)\\\]",
    re.S,
)
_CUE = re.compile(
    r"(?:\b(?:is|are|be|was|were|by|equals?|get|gets|have|has|gives?|takes?(?:\s+(?:him|her|them|us|me|it))?|took|costs?|needs?|needed|earns?|earned|pays?|paid|spends?|spent|weighs?|sold|saves?|saved|owes?|totals?|find|found|obtain|yields?|(?:thus|therefore|hence|so)(?=,?\s)|then|that|it's|its|at|answer|contains?|makes?|exactly|approximately|about)\b"
    r"|[:=≈]|=>|⇒|→|\b(?:es|est|ist|sind)\b),?[ \t]*\**[ \t]*",
    re.I,
)
_BOLD_MARK = re.compile(r"\*\*(?![\d(])")
_BUT = re.compile(r"not\s+[^,.]{1,40}?,?\s+but\s+(?:rather\s+)?")
_CONTRAST = re.compile(r"(?<=\S),\s*(?:and\s+)?not\s.*", re.S)
_QUOTE = re.compile(r"(?:>\s*)+(?=[*_`$])")
_CUE_ABROAD = re.compile(f"(?:{_CUE.pattern}|{CUES_ABROAD})[ \\t]*\\**[ \\t]*", re.I)
_REASON = re.compile(r",?\s+(?:because|since|which|whereas|as\s+(?:we|it|the|there))\b", re.I)
"""What follows explains the answer, and is no part of it."""
_OPTION = re.compile(r"(?:the\s+)?(?:option|choice)\s+(\(?[A-Z]\)?)(?![A-Za-z])", re.I)
_GLOSS = re.compile(r"([$€£]?[-+]?\d[\d,./]*(?:\s?\\?%)?)\s*\([A-Za-z][A-Za-z\s-]*\)")
"""`12 (twelve)`."""
_DENIED = re.compile(r"(?:\b(?:not|never|cannot|no|ne|nicht|pas|не)|n't|n’t)\s+$|[不非没沒未]\s*$", re.I)
_VALUE = re.compile(r"(?:\\?[$€£¥])?\s?[-+−]?(?:\d|\.\d|\\frac|\\sqrt|\\pi|\()")
_LEADING_NUMBER = re.compile(
    r"(?:\\?[$€£¥])?\s?([-+−]?\d[\d,]*+(?:\.\d++)?+(?:\s?/\s?\d++)?+(?:\s?(?:\\?%|percent))?+)"
)
_UNIT_LIKE = re.compile(
    r"\s?[€$£¥²³°]|\s?(?![或至到或])[^\W\d_a-zA-Z]|,?\s?(?!and\b|or\b)[A-Za-z]{2,}|\s?[mgslLh](?:[²³/]|\b)"
)
_ANY_NUMBER = re.compile(r"(?<![A-Za-z0-9_.,/^\\])-?\d[\d,]*(?:\.\d+)?(?:/\d+)?(?:\s?\\?%)?(?![A-Za-z0-9_^/])")
MATH_WORDS = {
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


def cues(text: str) -> re.Pattern[str]:
    """The pattern for what comes before the value that a sentence of `text` states."""
    return _CUE if text.isascii() else _CUE_ABROAD


def without_contrast(text: str) -> str:
    """Without `, not 15`."""
    return _CONTRAST.sub("", text) if "not " in text else text


def first_sentence(rest: str) -> str:
    if rest.startswith(("$$", "\\[")):
        closing = rest.find("$$" if rest[0] == "$" else "\\]", 2)
        return rest[: closing + 2] if closing > 0 else rest
    if rest.startswith("\\begin"):
        return rest
    end = SENTENCE_END.search(rest)
    return rest[: end.start()] if end else rest


def in_sentence(sentence: str) -> Extraction:
    """The answer in what follows a marker."""
    sentence = sentence.strip()
    if sentence.startswith(">"):
        sentence = _QUOTE.sub("", sentence, count=1)
    sentence = without_contrast(sentence).strip("*_").strip()
    if sentence.startswith("not ") and (but := _BUT.match(sentence)):
        sentence = sentence[but.end() :]
    if not sentence:
        return NOTHING
    clause = _REASON.search(sentence)
    if clause and clause.start() > 0 and "box" not in sentence[clause.start() :]:
        sentence = sentence[: clause.start()]
    if option := _OPTION.match(sentence):
        return Extraction(option.group(1))
    if gloss := _GLOSS.fullmatch(sentence):
        sentence = gloss.group(1)
    boxes = find_boxes(sentence) if "box" in sentence else []
    if boxes:
        return from_boxes(sentence, boxes)
    spans = list(MATH.finditer(sentence))
    outside = MATH.sub(" ", sentence)
    words = [word for word in WORD.findall(outside) if word.lower() not in MATH_WORDS]
    if spans:
        stated = stated_after_cue(sentence) if len(words) > 2 else None
        if stated is not None:
            return stated
        if len(words) <= 2 or (len(spans) > 1 and len(words) <= 4):
            return Extraction(sentence, several=len(spans) > 1)
        return Extraction(_content(spans[-1]))
    if not sentence.isascii():
        words += WORDS_ABROAD.findall(outside) * 3
        if DENIED_ABROAD.search(sentence):
            return NOTHING
    if len(words) > 2:
        stated = stated_after_cue(sentence)
        if stated is not None:
            return stated
        numbers = _ANY_NUMBER.findall(sentence)
        if len(numbers) == 1:
            return Extraction(numbers[0], prose=True)
    return Extraction(sentence, prose=True)


def _content(span: re.Match[str]) -> str:
    return next(part for part in span.groups() if part is not None).strip()


def looks_like_answer(found: Extraction) -> bool:
    answer = found.answer or ""
    return bool(re.search(r"\d|\\|\$", answer)) or (not found.prose) or len(answer) <= 2


def stated_after_cue(sentence: str) -> Extraction | None:
    """The value right after the last `is`, `are`, `=` and the like, or None."""
    masked = MATH.sub(lambda m: "\x01" * len(m.group()), sentence)
    for cue in reversed(list(cues(sentence).finditer(masked))):
        if _DENIED.search(masked, max(0, cue.start() - 16), cue.start()):
            return None
        rest = _BOLD_MARK.sub("", sentence[cue.end() :])
        if not rest.isascii() and DENIED_ABROAD.search(rest):
            return None
        if masked[cue.end() : cue.end() + 1] == "\x01":
            return _run_of_math(sentence[cue.end() :])
        if not _VALUE.match(rest):
            continue
        number = _LEADING_NUMBER.match(rest)
        if number and _UNIT_LIKE.match(rest, number.end()):
            return Extraction(number.group(1), prose=True)
        return Extraction(rest.strip(), prose=True)
    return None


def _run_of_math(rest: str) -> Extraction | None:
    """The formulas at the start of `rest`, as far as `and`, `or`, commas join them, and a unit after them."""
    spans = list(MATH.finditer(rest))
    if not spans:
        return None
    end = spans[0].end()
    count = 1
    for left, right in pairwise(spans):
        if not re.fullmatch(r"\s*(?:,|;|and|or|,\s*and|,\s*or)\s*", rest[left.end() : right.start()]):
            break
        end, count = right.end(), count + 1
    return Extraction(rest[:end] if count > 1 else _content(spans[0]), several=count > 1)


def is_one_formula(text: str) -> bool:
    match = MATH.fullmatch(text.rstrip(" ."))
    return match is not None and text.count("$") <= 4
