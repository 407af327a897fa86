r"""Reads answers in words: number words, ordinals, `no solution`, choice letters, and qualifiers after an answer."""

import re
from dataclasses import dataclass

_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_CARDINALS = {word: value for value, word in enumerate(_ONES)} | {
    word: 10 * value for value, word in enumerate(_TENS, 2)
}
_IRREGULAR = {
    "first": 1, "second": 2, "third": 3, "fifth": 5, "eighth": 8, "ninth": 9, "twelfth": 12, "twentieth": 20, "thirtieth": 30,
    "fortieth": 40, "fiftieth": 50,
}  # fmt: skip
_ORDINALS = {f"{word}th": value for word, value in _CARDINALS.items()} | _IRREGULAR
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6}

NO_SOLUTION = re.compile(
    r"(?:there\s+(?:is|are)\s+)?no\s+(?:such\s+)?(?:real\s+)?(?:solutions?|roots?|values?)(?:\s+exists?)?|none|(?:the\s+)?(?:empty|null)\s+set"
    r"|无解|無解|нет\s+решений|pas\s+de\s+solutions?|keine\s+lösung(?:en)?|sin\s+solución|解なし|해가\s*없다|해\s*없음",
    re.I,
)
CHOICE = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice)\s+\(?([A-J])\)?[.:]?|\(\s*([A-Z])\s*\)\s*[.:]?|([A-J])\s*(?:\)|[.:](?!\d)))\s*(\S.*)?",
    re.S,
)
"""`(B) 12`, `B)`, `C. 12`."""
ANOTHER_CHOICE = re.compile(r"\(\s*[A-Z]\s*\)|(?<![A-Za-z(])[A-J]\s*\)|(?:or|and)\b")
REALS = re.compile(
    r"(?:the\s+set\s+of\s+)?all\s+reals?(?:\s+(?:numbers?|values?))?(?:\s+(?:of\s+)?[a-z])?"
    r"(?:\s*,?\s*(?:except|excluding|other\s+than|but)(?:\s+for)?\s+(?:[a-z]\s*=\s*)?(\S.*))?",
    re.S,
)
"""`all real numbers except 2`."""
LABEL = re.compile(r"(?:\\text\s*\{\s*)?([A-Za-z][A-Za-z .'-]{0,40}?)\s*(?::\s*\}|\}\s*:|:)\s*([^:=]+)", re.S)
"""`Minimum: 1`."""

_NAMES = r"(?:[A-Za-z]|\\[a-z]+ ?)(?:\s*,\s*[A-Za-z])*"
_KINDS = (
    r"(?:(?:positive|negative|non-?negative|nonzero|non-zero|arbitrary|real|natural|whole|integer|rational|any)\s+)*"
)
_NOUNS = r"(?:integers?|reals?|(?:real|natural|whole|rational)(?:\s+numbers?)?|numbers?|constants?|parameters?)"
_QUALIFIER = re.compile(
    rf"(?P<body>.*?\S)\s*(?:"
    rf"[,;(\s]\s*(?:(?:where|with|for|and|\\forall)\s+)?(?:(?:all|any|every|each|some)\s+)?(?:\\forall\s*)?(?P<in>{_NAMES})\s*\\in\s*"
    rf"(?:\\mathbb\s*\{{?\s*)?(?P<set>[ZNRQ])\s*\}}?(?P<marks>(?:\s*[\^_]\s*(?:\{{[^{{}}]*\}}|\S))*)"
    rf"|[,;(\s]\s*(?:(?:where|with|for|and)\s+)?(?:all\s+)?(?P<is>{_NAMES})\s+(?:is|are|be|being)\s+(?:an?\s+|any\s+|some\s+|the\s+)*"
    rf"(?P<kind>{_KINDS}{_NOUNS})"
    rf"|[,;(\s]\s*for\s+(?:all|any|every|each|some)\s+(?P<kinds>{_KINDS}(?:{_NOUNS}\s*)?)(?P<of>{_NAMES})?"
    rf"|[,;(\s]\s*for\s+(?:all\s+|any\s+)?(?P<where>{_NAMES})\s*(?:\\ge|\\le|\\ne|<|>)\s*-?\w+"
    rf")\s*\)?",
    re.S,
)
_MAY_QUALIFY = re.compile(r"\\in(?![A-Za-z])|\\forall|(?<![A-Za-z])(?:for|is|are|be)(?![A-Za-z])")
_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_SENTENCE = re.compile(
    r"(?P<who>[A-Z][A-Za-z]*|(?:[Tt]he )?(?:[Ff]irst|[Ss]econd|[Tt]hird) player|[Pp]layer (?:[A-Z]|one|two|\d))"
    r"(?P<rest>(?: always| surely)? (?:will|can|wins?|won|has|is|was|gets?|takes?|receives?|[a-z]{2,}ed)(?: [a-z]+){0,8})\.?"
)
_NOBODY = {"It", "There", "This", "That", "He", "She", "They", "We", "You", "Yes", "No", "None", "Nobody", "Each", "Every",
           "All", "Any", "Both", "Either", "Neither", "Some", "What", "Which", "Who", "If", "One", "The"}  # fmt: skip
_REFUSES = re.compile(
    r" (?:not|never|no|cannot|los(?:es?|ing|er)|if|when|while|unless|except|otherwise|only|or|nor|and|but|than|sometimes)"
    r"(?![a-z])"
)
_WINS = re.compile(r" (?:wins?|winning|winner)(?![a-z])")
_PLACE = re.compile(
    rf"(?:the )?(?:(?P<digits>\d{{1,6}})(?:st|nd|rd|th|\^\{{\}})|(?P<word>{'|'.join(_ORDINALS)}))"
    r" (?:day|week|month|year|century|hour|minute|floor|row|column|term|place|position|round|step|page|grade|station|seat)",
    re.I,
)


@dataclass(frozen=True, slots=True)
class Qualified:
    """An answer without what says which values its variable takes."""

    body: str
    names: tuple[str, ...] = ()
    domain: str = ""
    """Z, N, R, Q, or empty where nothing definite is said."""


def qualified(cleaned: str) -> Qualified:
    r"""Takes `, k \in \mathbb{Z}`, `for all real x`, `where n is an integer` off the end of an answer. A condition that
    chooses between values (`5 if n is even`) stays."""
    if not _MAY_QUALIFY.search(cleaned):
        return Qualified(cleaned)
    flat = " ".join(_TEXT.sub(r" \1 ", cleaned).split())
    match = _QUALIFIER.fullmatch(flat) if len(flat) <= 400 else None
    if match is None:
        return Qualified(cleaned)
    body = match["body"].rstrip(" ,;(")
    if not body or re.search(r"(?<![A-Za-z])(?:for|if|when|otherwise)(?![A-Za-z])", body):
        return Qualified(cleaned)
    names = match["in"] or match["is"] or match["of"] or ""
    if match["set"]:
        domain = match["set"] + "".join((match["marks"] or "").split())
        domain = "N" if domain in ("Z^+", "Z^{+}", "Z_+", "Z_{+}", "Z_{>0}", "N^*", "N^{*}") else domain
    else:
        domain = _domain(match["kind"] or match["kinds"] or "")
    return Qualified(body, tuple(name.strip() for name in names.split(",") if name.strip()), domain)


def subject_of(words: str) -> tuple[str, bool] | None:
    """(who, whether they win) of a short sentence that says what one named person or player does: `Petya wins`, `The second
    player has a winning strategy`. None for any other words, and where the sentence denies, doubts, or names anyone else."""
    match = _SENTENCE.fullmatch(" ".join(words.split()))
    if match is None or match["who"] in _NOBODY or _REFUSES.search(match["rest"]):
        return None
    return match["who"], bool(_WINS.search(match["rest"]))


def place_in_words(words: str) -> int | None:
    """The number of `15th day` and `the third floor`; None for anything else."""
    match = _PLACE.fullmatch(" ".join(words.split()))
    if match is None:
        return None
    return int(match["digits"]) if match["digits"] else _ORDINALS.get(match["word"].lower())


def _domain(kind: str) -> str:
    if "natural" in kind or ("integer" in kind and "positive" in kind and "non" not in kind):
        return "N"
    if "integer" in kind:
        return "Z" if kind.split()[0].startswith(("integer", "any", "arbitrary")) else kind.strip()
    return "R" if "real" in kind and "positive" not in kind and "negative" not in kind else ""


def number_in_words(words: str) -> int | None:
    """The whole number that English `words` name, counting or in order (`twenty-one`, `third`); None for anything else."""
    parts = [part for part in re.split(r"[\s-]+", words.lower().removeprefix("the ")) if part and part != "and"]
    if not parts or len(parts) > 12 or (parts[0] not in _CARDINALS and parts[0] not in _ORDINALS):
        return None
    total, group, ended = 0, 0, False
    for part in parts:
        if ended:
            return None
        if part in _SCALES:
            if (
                not group
                or (part == "hundred" and group > 99)
                or (part != "hundred" and total and total < _SCALES[part])
            ):
                return None
            if part == "hundred":
                group *= 100
            else:
                total, group = total + group * _SCALES[part], 0
            continue
        value = _CARDINALS.get(part)
        if value is None:
            value, ended = _ORDINALS.get(part), True
        if value is None or (group % 100 and not (value < 10 and value and group % 10 == 0 and group % 100 >= 20)):
            return None
        group += value
    return total + group
