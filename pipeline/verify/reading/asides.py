"""What a response says without giving its answer: about other answers, about other questions, and where it breaks off."""

import re

from pipeline.verify.reading.boxes import SENTENCE_END

_ABOUT_OTHERS = re.compile(
    r"\b(?:reference|gold(?:en|-standard)?|ground[\s-]truth|expected|official|accepted|target|intended|published"
    r"|(?:given|provided|listed|stated|printed|claimed|student's|teacher's|your|their|his|her|wrong|incorrect)(?=\s+(?:final\s+)?answer\b)"
    r"|answer\s+key|key\s+says|text-?book|back\s+of\s+the\s+book|book|solutions?\s+manual|according\s+to|internet|dataset|grader"
    r"|previous|earlier\s+(?:problem|question|part)|next\s+(?:problem|question)|other\s+(?:problem|question)"
    r"|another\s+(?:problem|question)|different\s+(?:problem|question)|(?:similar|original)\s+(?:problem|question)"
    r"|example|instance|e\.g\.|check(?:ing)?|verif(?:y|ies|ication)|would|suppose|assuming|had\s+we|if\s+we\s+had|P\.?S\.)"
    r"(?![A-Za-z])",
    re.I,
)
"""In the sentence that names an answer: it is not the response's own."""
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
    r"|times))$",
    re.I,
)
_NEW_CLAUSE = re.compile(
    r"\d[^.!?\n]*?(?:,\s*(?:so|but|and|then|which|where|while|whereas|however|yet|although|though)|\s(?:but|so|because|since|and\s+then|and\s+(?:we|it|they)))\s"
    r"(?![^\n]*\bdone\b)[^\n]*[A-Za-z]$",
    re.I,
)
"""After a number, a clause that ends in a word without a full stop."""
_PLAN = re.compile(
    r"\b(?:we|I)(?:'ll|\s+(?:still|then|now|also|first|next|only|just|will|are|am))*\s+(?:need|have|want|ought|going|left|remains?)\s+to\s+"
    r"(?!be\b|pay\b|buy\b|get\b)|\b(?:let\s+us|let's)\s+\w+|\bnot\s+yet\b|\bhaven't\b[^.]*\byet\b",
    re.I,
)


def is_aside(text: str, start: int, end: int) -> bool:
    """Whether the phrase at `start` to `end` that announces an answer speaks of another than the response's own."""
    begin = max(0, start - 240)
    sentence = text[begin:start]
    for stop in SENTENCE_END.finditer(sentence):
        if not re.search(r"\b(?:P\.?S|e\.g|i\.e)$", sentence[: stop.start()]):
            begin = max(0, start - 240) + stop.end()
    return _ABOUT_OTHERS.search(text[begin:end]) is not None


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
    """Whether a last sentence says what is still to be done."""
    return _PLAN.search(sentence) is not None
