"""Recognizes what is not the answer: mentions of other answers and questions, and sentences that break off."""

import re

from pipeline.verify.reading.boxes import SENTENCE_END

_OTHERS = (
    r"(?:reference|gold(?:en|-standard)?|ground[\s-]truth|expected|official|accepted|target|intended|published|given|provided"
    r"|listed|stated|printed|claimed|student's|teacher's|wrong|incorrect)(?:\s+(?:final|correct))?\s+(?:answer|solution)"
    r"|answer\s+(?:key|sheet)|solutions?\s+(?:manual|sheet)|back\s+of\s+the\s+book|answer\s+(?:in|of|from)\s+the\s+(?:text-?)?book"
    r"|(?:sample|placeholder)\s+(?:answer|output)|(?:instructions?|prompt|template)\s+(?:says?|asks?|tells?|reads?|wants?)"
    r"|answer\s+to\s+(?:the|a|an)\s+(?:previous|next|other|similar|different)"
)
_OTHERS_ANSWER = re.compile(rf"\b(?:{_OTHERS})\b", re.I)
"""An answer that is not the response's own, wherever it is named."""
_ABOUT_OTHERS = re.compile(
    rf"\b(?:{_OTHERS}|key\s+says|according\s+to|dataset|grader|text-?book|book|previous|(?:earlier|next|other|another|different|similar)\s+"
    r"(?:problem|question|part)|for\s+(?:example|instance)|e\.g\.|check(?:ing)?|verif(?:y|ies|ication)|would|suppose|assuming"
    r"|had\s+we|P\.?S\.)(?![A-Za-z])",
    re.I,
)
"""In the sentence that names an answer after a box: the box stands."""
_NAMED = (
    "referenc", "gold", "ground", "expected", "official", "accepted", "target", "intended", "published", "given", "provided",
    "listed", "stated", "printed", "claimed", "student", "teacher", "wrong", "incorrect", "key", "sheet", "manual", "book",
    "sample", "placeholder", "instruction", "prompt", "template",
)  # fmt: skip
_ANSWER_TO = re.compile(r"answer\s+to\s")
"""One of these words, or this phrase, is wherever `_OTHERS_ANSWER` matches."""
_ABOUT = (
    "according", "dataset", "grader", "problem", "question", "part", "previous", "for ", "for\n", "e.g.", "check", "verif",
    "would", "suppose", "assuming", "had", "p.s", "ps",
)  # fmt: skip
"""One of these, or of the others, is wherever `_ABOUT_OTHERS` matches."""
_SUPPOSED = re.compile(
    r"\b(?:suppose|assume|assuming|imagine|pretend|if)\b(?:\s+(?:that|for\s+a\s+moment))?[^.,;:\n]{0,30}$"
    r"|(?:\b(?:whether|unsure|doubt|deny|refuse)|(?:\bnot|n't|n’t|\bnever)\s+(?:sure|certain|know|say|claim|think|believe)\b)"
    r"(?:(?!\bbut\b)[^.,;:\n]){0,30}$"
    r"|\bfor\s+(?:example|instance)\b[^.;:\n]{0,50}$",
    re.I,
)
"""Before an announcement: it is a hypothesis, a doubt or an example."""
_SUPPOSING = (
    "suppos", "assum", "imagine", "pretend", "if", "whether", "unsure", "doubt", "deny", "refuse", "not", "n't", "n’t", "never",
    "example", "instance",
)  # fmt: skip
"""One of these is wherever `_SUPPOSED` matches."""
_ABBREVIATION = re.compile(r"\b(?:P\.?S|e\.g|i\.e)$")
_CONCLUSION = re.compile(r"\b(?:so|hence|thus|therefore|consequently)\b", re.I)
_RESOLVED = re.compile(_CONCLUSION.pattern + r"|\b(?:but|after)\b", re.I)
_OTHER_QUESTION = re.compile(
    r"(?:^|\n)[\s#*>]*(?:(?:next|new|another|sample|practice|example)\s+)?(?:question|problem|exercise|example|q)\b[^\S\n]*\d*[^\S\n]*\**[:.)]"
    r"|(?<=[.!?])[^\S\n]+(?:question|problem|q)[^\S\n]*\d*:",
    re.I,
)
CORRECTION = re.compile(
    r"\b(?:wait|actually|correction|corrected|correcting|mistake|wrong|error|instead|re-?check\w*|recalculat\w*|redo"
    r"|incorrect|however|but|not\s+right|not\s+correct|oops|sorry|scratch\s+that|on\s+second\s+thought)\b",
    re.I,
)
"""Between a box and a later statement: the statement takes the box's place."""
_QUOTING = re.compile(
    rf"\b(?:{_OTHERS}|common\s+(?:mistake|error|misconception)"
    r"|(?:one|some(?:one)?|students?|people|you)\s+(?:might|may|could)\s+(?:say|think|get|guess|answer)|for\s+(?:example|instance)|e\.g\.|according\s+to)(?![A-Za-z])",
    re.I,
)
"""In the sentence of a box: it quotes another answer."""
_DENIED = re.compile(
    r"(?:\b(?:not|cannot|never)\s+(?:equal\s+to\s+|be\s+)?|\w(?:n't|n’t)\s+(?:be\s+)?|≠\s*|\\neq?\s*)[$*(]*(?:\\[(\[])?\s*$",
    re.I,
)
"""Before a box: `the answer is not`."""
_CALLED_FALSE = re.compile(
    r"(?:(?<!not )(?<!n't )\b(?:wrong|incorrect|false|untrue|impossible|a\s+mistake|an\s+error)"
    r"|\b(?:not|n't|n’t|never)\s+(?:true|correct|right|possible|the\s+case))"
    r"\s+(?:that|to\s+(?:say|claim|think|answer|believe|conclude|write))\b(?:(?!\b(?:but|except|other)\b)[^.,;:\n]){0,40}$"
    r"|\b(?:I|we)\s+(?:(?:very\s+much|strongly|really)\s+)?(?:doubt|deny|reject)\b(?:(?!\b(?:but|except|other)\b)[^.,;:\n]){0,40}$",
    re.I,
)
"""Before a box: `it is wrong to say that the answer is`, `I doubt that it is`."""
_FALSE_WORDS = (
    "wrong",
    "incorrect",
    "false",
    "true",
    "possible",
    "mistake",
    "error",
    "correct",
    "right",
    "case",
    "doubt",
    "deny",
    "reject",
)
"""One of these is wherever `_CALLED_FALSE` matches."""
_WITHDRAWN = re.compile(
    r"(?:^|[.!?\n])\s*(?:(?:but|oh|no|wait|oops|hmm+|sorry|actually|hold\s+on)\b[\s,.!…-]*)*"
    r"(?:(?:that|this|it|the\s+above|my\s+(?:\w+\s+)?(?:answer|result)|the\s+answer\s+above)\s*)?(?:\b(?:is|was)|'s|’s)\s+"
    r"(?:\w+\s+)?(?:wrong|incorrect|false|untrue|not\s+right|not\s+correct|a\s+mistake|an\s+error)\b"
    r"|\bI\s+(?:have\s+)?(?:made|make)\s+an?\s+(?:\w+\s+)?(?:mistake|error)\b",
    re.I,
)
"""After a box: its own response takes it back."""
_SHOULD_BE = re.compile(
    r"\b(?:should|must)\s+(?:be|have\s+been)\s*:?\s*|\b(?:is|it's|it’s)\s+(?:actually|really|in\s+fact)\s+", re.I
)
_DANGLING = re.compile(
    r"(?:[=+*/<>&(\[{,;:-]|\b(?:the|a|an|and|or|but|so|of|to|for|from|in|on|at|by|with|into|between|which|that|those|these"
    r"|this|who|whose|where|when|while|because|since|as|if|than|then|thus|hence|therefore|we|it|they|he|she|our|its|their"
    r"|is|are|was|were|be|been|has|have|had|get|gets|will|would|can|could|must|should|may|need|needs|not|now|next|also|us|however|although|though|whether|per|about"
    r"|each|every|any|some|another|multiply|divide|subtract|compute|calculate|determine|find|count|namely|let|plus|minus"
    r"|times|the\s+(?:first|second|third|following|remaining|other|same|number|sum|total)))$",
    re.I,
)
_NEW_CLAUSE = re.compile(
    r"\d[^.!?\n]*?(?:[,;]\s*(?:so|but|and|then|now|next|first|which|where|while|whereas|however|yet|although|though)|\s(?:but|so|because|since|and\s+then|and\s+(?:we|it|they)))\s"
    r"(?![^\n]*\bdone\b)[^\n]*[A-Za-z]$",
    re.I,
)
"""After a number, a clause that ends in a word without a full stop."""
_PLAN = re.compile(
    r"\b(?:we|I)(?:'ll|\s+(?:still|then|now|also|first|next|only|just|will|are|am))*\s+(?:need|have|want|ought|going|left|remains?)\s+to\s+"
    r"(?!be\b|pay\b|buy\b|get\b)|\b(?:let\s+us|let's)\s+\w+|\bnot\s+yet\b|\bso\s+far\b|\b(?:are|is)\s+(?:given|told)\s+that\b|^given\b|\bthe\s+(?:problem|question)\s+(?:says|states|tells|asks|gives)\b|\bhaven't\b[^.]*\byet\b"
    r"|^(?:suppose|assume|imagine|let's\s+say|for\s+(?:example|instance))\b",
    re.I,
)
"""A last sentence that says what is still to be done, what is given, or what is supposed."""
_DOUBT = re.compile(
    r"\bwhether\b|\b(?:cannot|can't|can’t|could\s+not|couldn't|unable\s+to)\s+(?:determine|decide|say|tell|know|conclude|prove)\b"
    r"|\b(?:not|never)\s+(?:\w+\s+)?(?:sure|certain|clear|known)\b|\b(?:unsure|uncertain|unclear|unknown)\b|\b(?:don't|don’t|not)\s+know\b",
    re.I,
)
"""A last sentence that says what is not known."""
_TURNS_TO_ITS_PROBLEM = re.compile(
    r"^\s*now\b|\b(?:our|the\s+(?:actual|given|real|original|present))\s+(?:problem|question|task)\b", re.I | re.M
)
_EXAMPLE = re.compile(
    r"(?:^|\n)[\s#*>]*(?:worked\s+)?(?:example|sample|practice)\b(?:[^\S\n]+(?:problem|question|exercise))?[^\S\n]*\d*[^\S\n]*\**[:.)]",
    re.I,
)
_WORD = re.compile(r"[A-Za-z]{2}")
_COMMAND = re.compile(r"\\[A-Za-z]+")


def is_aside(text: str, start: int, end: int, after_box: bool = False) -> bool:
    """Whether the phrase at `start` to `end` that announces an answer speaks of another than the response's own."""
    before = text[max(0, start - 60) : start].lower()
    if _holds(before, _SUPPOSING) and _SUPPOSED.search(before):
        return True
    speaks_of_others = _ABOUT_OTHERS if after_box else _OTHERS_ANSWER
    first = max(0, start - 240)
    window = text[first:end].lower()
    if not (_holds(window, _NAMED) or _ANSWER_TO.search(window) or (after_box and _holds(window, _ABOUT))):
        return False
    if speaks_of_others.search(text, first, end) is None:
        return False
    begin, sentence = first, text[first:start]
    for stop in (*SENTENCE_END.finditer(sentence), *_CONCLUSION.finditer(sentence)):
        if not _ABBREVIATION.search(sentence, max(0, stop.start() - 8), stop.start()):
            begin = max(begin, first + stop.end())
    return speaks_of_others.search(text, begin, end) is not None


def _holds(text: str, words: tuple[str, ...]) -> bool:
    return any(map(text.__contains__, words))


def without_other_questions(text: str, answered: int) -> str:
    """`text` up to where another question begins after its first answer, which ends at `answered`."""
    other = _OTHER_QUESTION.search(text, answered)
    return text[: other.start()] if other else text


def may_ask_more(text: str) -> bool:
    """Whether `text` begins with its solution and goes on to another question."""
    first = _OTHER_QUESTION.search(text)
    return first is not None and first.start() > 0


def is_echo(text: str, start: int, end: int) -> bool:
    """Whether the answer announced at `start` to `end` belongs to an echoed example: it is between two questions, or
    between the heading of an example and the words that turn to the problem."""
    if _OTHER_QUESTION.search(text, end) is not None:
        return _OTHER_QUESTION.search(text[:start]) is not None
    return _TURNS_TO_ITS_PROBLEM.search(text, end) is not None and _EXAMPLE.search(text[:start]) is not None


def own_boxes(text: str, boxes: list[tuple[int, int, str]]) -> list[tuple[int, int, str]]:
    """The boxes without empty ones, and without those at the end that are denied or quote another answer, as far as one is
    left."""
    boxes = [box for box in boxes if box[2].strip()] or boxes
    while len(boxes) > 1 and (is_denied(text, boxes[-1][0]) or _is_quoted(text, boxes[-2][1], boxes[-1][0])):
        boxes = boxes[:-1]
    return boxes


def _is_quoted(text: str, start: int, at: int) -> bool:
    """Whether the sentence of the box that begins at `at`, which does not begin before `start`, quotes another answer."""
    sentence = text[max(start, at - 240) : at]
    ends = [stop.end() for stop in SENTENCE_END.finditer(sentence)]
    return _QUOTING.search(sentence[ends[-1] :] if ends else sentence) is not None


def is_denied(text: str, at: int) -> bool:
    """Whether what begins at `at` is said not to be the answer."""
    if _DENIED.search(text, max(0, at - 40), at) is not None:
        return True
    before = text[max(0, at - 100) : at]
    return _holds(before.lower(), _FALSE_WORDS) and _CALLED_FALSE.search(before) is not None


def is_withdrawn(tail: str) -> bool:
    """Whether `tail`, which follows the last box, takes it back."""
    return _WITHDRAWN.search(tail) is not None


def in_its_place(tail: str) -> int | None:
    """The place in `tail` of the value that replaces the box: "it should be 14"."""
    return next((m.end() for m in _SHOULD_BE.finditer(tail) if not is_aside(tail, m.start(), m.end(), True)), None)


def is_unfinished(text: str) -> bool:
    """Whether `text`, which has no box, breaks off in the middle of a sentence."""
    last = text.rsplit("\n", 1)[-1][-400:].rstrip()
    if not _WORD.search(_COMMAND.sub("", last) if "\\" in last else last):
        return False
    stops = [stop.end() for stop in SENTENCE_END.finditer(last)]
    sentence = last[max((stop for stop in stops if stop < len(last)), default=0) :].strip(" *_")
    if _DANGLING.search(sentence, max(0, len(sentence) - 40)) is not None:
        return True
    return sentence[-1:].isalpha() and _NEW_CLAUSE.search(sentence) is not None


def is_plan(sentence: str) -> bool:
    """Whether a last sentence says what is still to be done or is not known, and concludes nothing after that."""
    plan, doubt = _PLAN.search(sentence), _DOUBT.search(sentence)
    return (plan is not None and _CONCLUSION.search(sentence, plan.end()) is None) or (
        doubt is not None and _RESOLVED.search(sentence, doubt.end()) is None
    )
