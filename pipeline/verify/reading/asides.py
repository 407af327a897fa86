"""What a response says without giving its answer: about other answers, about other questions, and where it breaks off."""

import re

from pipeline.verify.reading.boxes import SENTENCE_END

_OTHERS = (
    r"(?:reference|gold(?:en|-standard)?|ground[\s-]truth|expected|official|accepted|target|intended|published|given|provided"
    r"|listed|stated|printed|claimed|student's|teacher's|wrong|incorrect)(?:\s+(?:final|correct))?\s+(?:answer|solution)"
    r"|answer\s+(?:key|sheet)|solutions?\s+(?:manual|sheet)|back\s+of\s+the\s+book|answer\s+(?:in|of|from)\s+the\s+(?:text-?)?book"
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
_ABBREVIATION = re.compile(r"\b(?:P\.?S|e\.g|i\.e)$")
_CONCLUSION = re.compile(r"\b(?:so|hence|thus|therefore|consequently)\b", re.I)
_OTHER_QUESTION = re.compile(
    r"(?:^|\n)[\s#*>]*(?:(?:next|new|another|sample|practice|example)\s+)?(?:question|problem|exercise|example|q)\b[^\S\n]*\d*[^\S\n]*\**[:.)]",
    re.I,
)
CORRECTION = re.compile(
    r"\b(?:wait|actually|correction|corrected|correcting|mistake|wrong|error|instead|re-?check\w*|recalculat\w*|redo"
    r"|incorrect|however|but|not\s+right|not\s+correct|oops|sorry|scratch\s+that|on\s+second\s+thought)\b",
    re.I,
)
"""Between a box and a later statement: the statement takes the box's place."""
_DANGLING = re.compile(
    r"(?:[=+*/<>&(\[{,;:-]|\b(?:the|a|an|and|or|but|so|of|to|for|from|in|on|at|by|with|into|between|which|that|those|these"
    r"|this|who|whose|where|when|while|because|since|as|if|than|then|thus|hence|therefore|we|it|they|he|she|our|its|their"
    r"|is|are|was|were|be|been|has|have|had|get|gets|will|would|can|could|must|should|may|need|needs|not|now|next|also"
    r"|each|every|any|some|another|multiply|divide|subtract|compute|calculate|determine|find|count|namely|let|plus|minus"
    r"|times|the\s+(?:first|second|third|following|remaining|other|same|number|sum|total)))$",
    re.I,
)
_NEW_CLAUSE = re.compile(
    r"\d[^.!?\n]*?(?:,\s*(?:so|but|and|then|now|next|first|which|where|while|whereas|however|yet|although|though)|\s(?:but|so|because|since|and\s+then|and\s+(?:we|it|they)))\s"
    r"(?![^\n]*\bdone\b)[^\n]*[A-Za-z]$",
    re.I,
)
"""After a number, a clause that ends in a word without a full stop."""
_PLAN = re.compile(
    r"\b(?:we|I)(?:'ll|\s+(?:still|then|now|also|first|next|only|just|will|are|am))*\s+(?:need|have|want|ought|going|left|remains?)\s+to\s+"
    r"(?!be\b|pay\b|buy\b|get\b)|\b(?:let\s+us|let's)\s+\w+|\bnot\s+yet\b|\bhaven't\b[^.]*\byet\b",
    re.I,
)


def is_aside(text: str, start: int, end: int, after_box: bool = False) -> bool:
    """Whether the phrase at `start` to `end` that announces an answer speaks of another than the response's own."""
    begin = max(0, start - 240)
    sentence = text[begin:start]
    for stop in (*SENTENCE_END.finditer(sentence), *_CONCLUSION.finditer(sentence)):
        if not _ABBREVIATION.search(sentence[: stop.start()]):
            begin = max(begin, start - len(sentence) + stop.end())
    return (_ABOUT_OTHERS if after_box else _OTHERS_ANSWER).search(text[begin:end]) is not None


def without_other_questions(text: str, box_end: int) -> str:
    """`text` up to where another question begins after its first box."""
    other = _OTHER_QUESTION.search(text, box_end)
    return text[: other.start()] if other else text


def is_unfinished(text: str) -> bool:
    """Whether `text`, which has no box, breaks off in the middle of a sentence."""
    last = text.rsplit("\n", 1)[-1][-400:].rstrip()
    if not re.search(r"[A-Za-z]{2}", re.sub(r"\\[A-Za-z]+", "", last)):
        return False
    stops = [stop.end() for stop in SENTENCE_END.finditer(last)]
    sentence = last[max((stop for stop in stops if stop < len(last)), default=0) :].strip(" *_")
    return _DANGLING.search(sentence) is not None or _NEW_CLAUSE.search(sentence) is not None


def is_plan(sentence: str) -> bool:
    """Whether a last sentence says what is still to be done, and concludes nothing after that."""
    plan = _PLAN.search(sentence)
    return plan is not None and _CONCLUSION.search(sentence, plan.end()) is None
