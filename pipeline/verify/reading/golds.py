r"""Lists the answers that one gold text accepts: `["6", "six"]` (JSON, as some data sets store them), `6 (or six)`."""

import json
import re

from pipeline.verify.reading.repair import lost_backslashes

_QUOTED = r"\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'"
_LIST = re.compile(rf"\[\s*(?:{_QUOTED})\s*(?:,\s*(?:{_QUOTED})\s*)*\]", re.S)
_ITEM = re.compile(_QUOTED, re.S)
_ALSO = re.compile(
    r"(?P<first>.*\S)\s*\(\s*(?:(?:(?:also|or)\s+)?accept(?:ed|able)?|or|also)\s*:?\s+(?P<second>[^()]+(?:\([^()]*\))?[^()]*)\)",
    re.S,
)


_NO_ANSWER = re.compile(
    r"(?:\\text\s*\{)?\s*(?:see\s+(?:the\s+)?)?(?:proof|prove|solution|nan|null|n/a|nil|tbd|todo|unknown)\s*\.?\s*\}?"
    r"|None|<na>|q\.?\s?e\.?\s?d\.?|no\s+answer|not\s+(?:available|provided)|[-–—?.*_#]*|\[\]",
    re.I,
)
"""What a column of answers holds where there is no answer: a task of proof, a lost value."""


def is_no_answer(gold: str) -> bool:
    """Whether `gold` says that there is no answer to compare with. The word none in small letters is an answer."""
    gold = gold.strip().strip("$").strip()
    if gold.startswith("\\boxed"):
        gold = re.sub(r"^\\boxed\{(.*)\}$", r"\1", gold).strip()
    return _NO_ANSWER.fullmatch(gold) is not None and gold not in ("none", "NONE")


def alternatives(gold: str, how: str = "any") -> list[str]:
    """The texts of which each is a right answer (`how` = any), or whose list is (`all`); the text itself, as it is, for
    `text`. Empty where the gold says that there is none; never raises."""
    if is_no_answer(gold):
        return []
    if not gold.isprintable():
        gold = lost_backslashes(gold)
    gold = gold.strip()
    if how == "text":
        return [gold]
    items = _json_items(gold)
    if items is not None:
        return [", ".join(items)] if how == "all" else items
    if gold.endswith(")") and (match := _ALSO.fullmatch(gold)):
        return [match["first"], match["second"].strip()]
    return [gold]


def _json_items(gold: str) -> list[str] | None:
    """The strings of a JSON list, also of one that was encoded twice; None if `gold` is not a list."""
    if gold.startswith('"[') and gold.endswith(']"'):
        gold = gold[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if not gold.startswith("[") or not _LIST.fullmatch(gold):
        return None
    try:
        found = json.loads(gold)
    except (ValueError, RecursionError):  # `['7']`, `["\sqrt2"]`
        found = [item[1:-1] for item in _ITEM.findall(gold)]
    return [lost_backslashes(item) for item in found]
