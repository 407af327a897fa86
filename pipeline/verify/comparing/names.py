r"""Renames bound names: `f(x) = x` and `f(z) = z`, `n\pi` and `k\pi`, `+ C` and `+ c` say the same.

A name is bound only where the answer itself shows it. A variable of the problem keeps its name.
"""

import re

from pipeline.verify.reading.scan import peel, split_top
from pipeline.verify.reading.syntax import GREEK
from pipeline.verify.reading.words import Qualified

_NAME = re.compile(r"\\text\s*\{[^{}]*\}|\\[A-Za-z]+|[A-Za-z](?:_(?:\{[^{}]*\}|\w))?")
_FUNCTION = re.compile(r"\s*([A-Za-z])\s*\(\s*([A-Za-z](?:\s*,\s*[A-Za-z])*)\s*\)\s*=(.+)", re.S)
_HEAD = re.compile(r"^\s*(?:[A-Za-z]|\((?:[^()=]|\([^()=]*\))*\))\s*=(?!.*=)")
"""`x =` or `(P(x), Q(x)) =` before a family of values."""
_WHOLE_NUMBERS = {"k", "n", "m", "l", "j"}
"""Letters that count the turns in `\frac{\\pi}{4} + k\\pi`."""
_CONSTANTS = {"C", "c", "K", "k", "C_1", "c_1", "C_{1}", "c_{1}"}


def renamed(given: Qualified, wanted: Qualified) -> str | None:
    """`given` with its bound names as `wanted` calls them; None where there is nothing to rename."""
    left, right = _FUNCTION.fullmatch(given.body), _FUNCTION.fullmatch(wanted.body)
    if left and right:
        return _with_arguments(left, right)
    ours, theirs = _names(_HEAD.sub("", given.body)), _names(_HEAD.sub("", wanted.body))
    constants = {old: new for old in ours - theirs for new in theirs - ours if old.lower() == new.lower()}
    all_of_c = constants and all(name[0] in "cC" for name in constants) and not (ours | theirs) & {"a", "b"}
    if all_of_c and len(constants) == len(ours - theirs) == len(theirs - ours):  # `y = C_1 e^x` and `y = c_1 e^x`
        return _replaced(given.body, constants)
    if len(ours - theirs) != 1 or len(theirs - ours) != 1:
        return None
    (old,), (new,) = ours - theirs, theirs - ours
    whole = _is_whole(old, given) and _is_whole(new, wanted)
    stated = old in given.names or new in wanted.names
    if stated and _is_parameter(old, given.body) and _is_parameter(new, wanted.body):
        return _replaced(given.body, {old: new})
    if whole or (_is_constant(old, given.body, ours) and _is_constant(new, wanted.body, theirs)):
        return _replaced(given.body, {old: new})
    return None


def _with_arguments(left: re.Match[str], right: re.Match[str]) -> str | None:
    ours, theirs = ([name.strip() for name in match[2].split(",")] for match in (left, right))
    if left[1] != right[1] or len(ours) != len(theirs) or ours == theirs:
        return None
    if len(set(ours)) < len(ours) or (set(theirs) - set(ours)) & _names(left[3]):
        return None  # the new name already means something there
    return f"{left[1]}({', '.join(theirs)})={_replaced(left[3], dict(zip(ours, theirs, strict=True)))}"


def _is_whole(name: str, answer: Qualified) -> bool:
    if name in answer.names and answer.domain[:1] in ("Z", "N"):
        return True
    return name in _WHOLE_NUMBERS and ("\\pi" in answer.body or "\\degree" in answer.body)


def _is_parameter(name: str, body: str) -> bool:
    """Whether `name` runs through a family of points: `(3t + 1, 5t)`."""
    inner, bracket = peel(_HEAD.sub("", body).strip())
    return bracket == "()" and sum(name in _names(part) for part in split_top(inner, ",")) > 1


def _is_constant(name: str, body: str, names: set[str]) -> bool:
    """A constant of integration: one term of the sum, at one place only."""
    if name not in _CONSTANTS or names & {"a", "b"}:
        return False
    return len(re.findall(rf"(?:^|\+)\s*{re.escape(name)}\s*(?=$|[+-])", body)) == 1 == _count(body, name)


def _count(body: str, name: str) -> int:
    return sum(match.group() == name for match in _NAME.finditer(body))


def _names(body: str) -> set[str]:
    found = {match.group() for match in _NAME.finditer(body)}
    return {name for name in found if name not in ("e", "i") and (name[0] != "\\" or name[1:] in GREEK)}


def _replaced(body: str, names: dict[str, str]) -> str:
    return _NAME.sub(lambda match: names.get(match.group(), match.group()), body)
