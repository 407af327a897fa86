"""Units, money and percent: taken off a number, so that what is left can be compared."""

import re

_SPELLINGS = {
    "m": "m meter meters metre metres", "cm": "cm centimeter centimeters centimetre centimetres",
    "mm": "mm millimeter millimeters", "km": "km kilometer kilometers kilometre kilometres", "in": "inch inches",
    "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mile miles mi", "g": "g gram grams",
    "kg": "kg kilogram kilograms kgs", "mg": "mg", "lb": "lb lbs pound pounds", "oz": "oz ounce ounces",
    "ton": "ton tons", "s": "s sec secs second seconds", "min": "min mins minute minutes",
    "h": "h hr hrs hour hours", "day": "day days", "week": "week weeks", "month": "month months",
    "year": "year years yr yrs", "l": "l liter liters litre litres", "ml": "ml", "gal": "gallon gallons gal",
    "dollar": "dollar dollars usd bucks", "cent": "cent cents", "euro": "euro euros", "yuan": "yuan rmb",
    "yen": "yen", "rupee": "rupee rupees rs", "degree": "degree degrees deg", "radian": "radian radians rad",
    "mph": "mph", "kmh": "kmh kph", "acre": "acre acres", "unit": "unit units", "am": "am a.m", "pm": "pm p.m",
}  # fmt: skip
"""Each unit's one name, and how it is written."""
_NAMES = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_SINGLE = {"m", "g", "s", "h", "l", "L"}
_LOOSE = {"square", "sq", "cubic", "cu", "per", "of", "a", "an", "the", "units", "unit", "sq."}
_QUALIFIERS = {
    "or",
    "more",
    "less",
    "fewer",
    "least",
    "most",
    "over",
    "under",
    "above",
    "below",
    "between",
    "not",
    "to",
}
"""Words that say that the number before them is not the answer itself."""
_CURRENCY = re.compile(r"(?:\\(dollar|euro|pounds|yen|rupee)|(?:US|USD|Rs\.?))(?![A-Za-z])\s*")
_TEXT_UNIT = re.compile(r"\s*\\text\s*\{([^{}]*)\}\s*(?:\^\s*(?:\{\s*-?\d\s*\}|\d))?\s*$")
_DEGREE = re.compile(r"\s*\\degree\s*(?:C|F)?\s*$")
_ANGLE_OF = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
"""In `\\cos 60^\\circ` the degrees belong to the argument."""
_PERCENT = re.compile(r"\s*\\%\s*$")
_CURRENCY_END = re.compile(r"\s*\\(dollar|euro|pounds|yen|rupee)\s*$")
_WORDS_END = re.compile(
    r"(?<=[\d}).!A-Za-z])(?<![\\A-Za-z])\s*((?<![A-Za-z\\])[A-Za-z][A-Za-z.]*(?:[\s/][A-Za-z][A-Za-z.]*)*)\s*(?:\^\s*(?:\{\s*\d\s*\}|\d))?$"
)


def strip_units(text: str) -> tuple[str, bool, str]:
    """(what is left, whether it was a percentage, the unit). The text itself where there is nothing to take off."""
    percent = False
    unit = ""
    if text.startswith(("\\", "U", "R", "-")):
        match = _CURRENCY.match(text, 1 if text[0] == "-" else 0)
        if match:
            unit = match.group(1) or "dollar"
            text = text[: match.start()] + text[match.end() :]
    while True:
        if match := _PERCENT.search(text):
            percent = True
        elif (match := _DEGREE.search(text)) and not _ANGLE_OF.search(text):
            unit = unit or "degree"
        elif (match := _TEXT_UNIT.search(text)) and match.start() > 0 and _is_unit(match.group(1)):
            unit = _canonical(match.group(1)) + unit
        elif match := _CURRENCY_END.search(text):
            unit = match.group(1)
        elif (match := _plain_words(text)) is not None:
            unit = _canonical(match.group(1)) + unit
        else:
            return text, percent, unit
        if match.start() == 0:
            return text, percent, unit
        text = text[: match.start()].rstrip(" ,")


def _is_unit(words: str) -> bool:
    return _QUALIFIERS.isdisjoint(words.lower().split())


def _plain_words(text: str) -> re.Match[str] | None:
    """Words after a number, where they cannot be a product of variables."""
    if not text or not (text[-1].isalpha() or text[-1] in ".}0123456789)"):
        return None
    match = _WORDS_END.search(text)
    if match is None or not (
        text[match.start() - 1 : match.start()].isdigit() or text[match.start() - 1 : match.start()] in "})"
    ):
        return None
    words = re.split(r"[\s/]+", match.group(1))
    if not _QUALIFIERS.isdisjoint(word.lower() for word in words):
        return None
    spaced = text[match.start() : match.start() + 1].isspace()
    if all(word.lower().rstrip(".") in _NAMES or word.lower() in _LOOSE for word in words):
        if len(words) == 1 and len(words[0]) == 1 and not (words[0] in _SINGLE and _is_numeral(text[: match.start()])):
            return None
        return match
    if (
        spaced
        and all(len(word) >= 3 or word.lower() in _LOOSE | {"in", "at", "is"} for word in words)
        and any(len(word) >= 3 for word in words)
    ):
        return match
    return None


def _is_numeral(text: str) -> bool:
    return bool(re.fullmatch(r"[-+]?[\d.,]+(?:\s*\\cdot\s*10\s*\^\s*(?:\{\s*-?\d+\s*\}|\d))?\s*", text))


def _canonical(words: str) -> str:
    """The unit's one name; a phrase of unknown words is kept as it is."""
    words = words.strip().lower().rstrip(".")
    return _NAMES.get(words, " ".join(words.split()))


def conflict(a: str, b: str) -> bool:
    """Whether both are known units and not the same one (100 cm is not 100 m)."""
    known = set(_NAMES.values())
    return a in known and b in known and a != b and "unit" not in (a, b)
