"""Takes units, money and percent off a number, so that the rest can be compared."""

import re
from functools import lru_cache

_SPELLINGS = {
    "m": "m meter meters metre metres 米", "cm": "cm centimeter centimeters centimetre centimetres 厘米 公分",
    "mm": "mm millimeter millimeters 毫米", "km": "km kilometer kilometers kilometre kilometres 千米 公里",
    "in": "in inch inches",
    "ft": "ft foot feet", "yd": "yd yard yards", "mi": "mile miles mi", "g": "g gram grams 克",
    "kg": "kg kilogram kilograms kgs 公斤 千克", "mg": "mg 毫克", "lb": "lb lbs pound pounds", "oz": "oz ounce ounces",
    "ton": "ton tons tonne tonnes 吨", "s": "s sec secs second seconds 秒", "min": "min mins minute minutes 分钟 分鐘",
    "h": "h hr hrs hour hours 小时 小時 時間", "day": "day days 天", "week": "week weeks 周", "month": "month months",
    "year": "year years yr yrs 年", "l": "l L liter liters litre litres 升", "ml": "ml mL 毫升", "gal": "gallon gallons gal",
    "dollar": "dollar dollars usd bucks 美元", "cent": "cent cents", "euro": "euro euros 欧元", "yuan": "yuan rmb 元 人民币",
    "yen": "yen 円 日元", "rupee": "rupee rupees rs", "degree": "degree degrees deg 度", "radian": "radian radians rad",
    "mph": "mph", "kmh": "kmh kph", "acre": "acre acres", "unit": "unit units", "am": "am a.m", "pm": "pm p.m",
    "N": "N newton newtons", "J": "J joule joules", "W": "W watt watts", "V": "V volt volts", "A": "A amp amps ampere amperes",
    "K": "K kelvin kelvins", "C": "C coulomb coulombs celsius", "F": "F farad farads fahrenheit",
    "T": "T tesla", "Pa": "Pa pascal pascals",
    "Hz": "Hz hertz", "ohm": "ohm ohms \\Omega", "H": "H henry henries",
    "mol": "mol mole moles", "eV": "eV", "cal": "cal calorie calories",
    "kWh": "kWh", "rpm": "rpm", "dB": "dB", "atm": "atm", "m^2": "平方米 平方公尺", "cm^2": "平方厘米 平方公分",
    "km^2": "平方千米 平方公里", "m^3": "立方米", "cm^3": "立方厘米", "bit": "bit bits", "byte": "byte bytes",
}  # fmt: skip
"""Each unit's one name, and how it is written."""
_NAMES = {spelling: name for name, spellings in _SPELLINGS.items() for spelling in spellings.split()}
_PREFIXES = ("k", "M", "G", "m", "n", "\\mu ")
_PREFIXED = {
    prefix + unit for prefix in _PREFIXES for unit in ("m", "g", "s", "N", "J", "W", "V", "A", "Pa", "Hz", "eV", "mol",
    "\\Omega", "cal", "F", "C", "T", "H")
} - set(_NAMES)  # fmt: skip
"""`kJ`, `mA`: units only where a space or `\\text` sets them off, because they could be products of variables."""
_KNOWN = set(_SPELLINGS) | _PREFIXED | {"pounds"}
_SINGLE = {"m", "g", "s", "h", "l", "L"}
_SHORT_FOR_MORE = {"dollar", "cent", "euro", "yuan", "yen", "rupee", "pounds", "degree", "C", "F"}
"""Units that may be written alone where the gold says more."""
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
    "maybe",
    "perhaps",
    "possibly",
    "wrong",
    "incorrect",
    "false",
}
"""Words that say that the number before them is not the answer itself."""
_FOREIGN_QUALIFIERS = re.compile(
    r"以上|以下|以内|多|约|左右|不|或|至|到|超过|小于|大于|未満|ない|または|또는|이상|이하|아니|^[千百十]$"
    r"|\b(?:или|не|более|менее|больше|меньше|до|от|o|u|y|e|más|menos|ou|et|plus|moins|oder|und|mehr|weniger|nicht|no|bis|a)\b"
)
_VALUE = re.compile(
    r"[-+]?\s*(?:\d[\d.,]*(?:\s*\\frac\s*\{\s*\d+\s*\}\s*\{\s*\d+\s*\}|(?:\s+\d+)?\s*/\s*\d+)?|\.\d+"
    r"|\\frac\s*\{[^{}]*\}\s*\{[^{}]*\})(?:\s*\\cdot\s*10\s*\^\s*(?:\{\s*-?\d+\s*\}|\d))?(?:\s*\\sqrt\s*\{\d+\})?(?:\s*\\pi(?![A-Za-z]))?"
)
"""A number at the start, so that letters after it can be units."""
_UNIT_FRACTION = re.compile(
    r"\\frac\s*\{((?:\\text\s*\{[^{}]*\}|[^{}]|\{[^{}]*\})*)\}\s*\{((?:\\text\s*\{[^{}]*\}|[^{}]|\{[^{}]*\})*)\}"
)
_UNIT_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_UNIT_TOKEN = re.compile(
    r"\s*(?:(\\mu ?[A-Za-z]+|[A-Za-z]?\\Omega|[A-Za-z]+)(\.(?=\s|$))?"
    r"\s*(?:\^\s*\{?\s*(-?\d)\s*\}?)?|(/)|\\cdot|\.|-(?=[A-Za-z]))"
)
_UNITS_BELOW = re.compile(r"/\s*\(([^()]*)\)")
"""`J/(kg K)`."""
_POWER_WORDS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3, "squared": 2, "cubed": 3}
_CURRENCY = re.compile(r"(?:\\(dollar|euro|pounds|yen|rupee)|(?:US|USD|Rs\.?))(?![A-Za-z])\s*")
_TEXT_UNIT = re.compile(r"\s*\\text\s*\{([^{}]*)\}\s*(?:\^\s*(?:\{\s*-?\d\s*\}|\d))?\s*$")
_DEGREE = re.compile(r"\s*\\degree\s*(C|F)?\s*$")
_ANGLE_OF = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![A-Za-z])")
"""In `\\cos 60^\\circ` the degrees belong to the argument."""
_PERCENT = re.compile(r"\s*\\%\s*$")
_CURRENCY_END = re.compile(r"\s*\\(dollar|euro|pounds|yen|rupee)\s*$")
_WORDS_END = re.compile(
    r"(?<=[\d}).!A-Za-z])(?<![\\A-Za-z])\s*((?<![A-Za-z\\])[A-Za-z][A-Za-z.]*(?:[\s/][A-Za-z][A-Za-z.]*)*)\s*(?:\^\s*(?:\{\s*\d\s*\}|\d))?$"
)


@lru_cache(maxsize=128)
def strip_units(text: str) -> tuple[str, bool, str]:
    """(what is left, whether it was a percentage, the unit). The text itself where there is nothing to take off."""
    percent = False
    unit = ""
    if text.startswith(("\\", "U", "R", "-")):
        match = _CURRENCY.match(text, 1 if text[0] == "-" else 0)
        if match:
            unit = match.group(1) or "dollar"
            text = text[: match.start()] + text[match.end() :]
    found = _measured(text) or _foreign(text)
    if found is not None:
        return found[0], False, _joined(unit, found[1])
    while True:
        if match := _PERCENT.search(text):
            percent = True
        elif (match := _DEGREE.search(text)) and not _ANGLE_OF.search(text):
            unit = unit or (f"{match.group(1)}*degree" if match.group(1) else "degree")
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


def _joined(currency: str, unit: str) -> str:
    return unit if not currency else f"{currency}*{unit}" if unit else currency


def _measured(text: str) -> tuple[str, str] | None:
    r"""(the number, its unit) where all that follows a number is a product of known units: `9.8 m/s^2`, `3\ \frac{km}{h}`."""
    value = _VALUE.match(text)
    if value is None or value.end() == len(text):
        return None
    rest = text[value.end() :]
    if len(rest) > 80 or not (rest[0].isalpha() or rest[0] in " \\"):
        return None
    spaced = not rest[0].isalpha()
    if rest.strip().startswith("{") and rest.endswith("}"):  # `\mathrm{m\,s^{-2}}`
        rest = rest.strip()[1:-1]
    if "(" in rest:
        rest = _UNITS_BELOW.sub(lambda m: "/" + "/".join(re.sub(r"\\cdot|[*.]", " ", m[1]).split()), rest)
    if "\\frac" in rest:
        rest = _UNIT_FRACTION.sub(r" \1 / \2 ", rest)
    if "\\text" in rest:
        rest = _UNIT_TEXT.sub(r" \1 ", rest)
    powers = _factors(rest.strip().rstrip("."), spaced)
    if not powers or any(name in ("am", "pm") for name in powers):
        return None
    return text[: value.end()].strip(" ,"), "*".join(
        name if power == 1 else f"{name}^{power}" for name, power in sorted(powers.items())
    )


def _factors(rest: str, spaced: bool) -> dict[str, int] | None:
    """Units and their powers, or None where `rest` holds anything else."""
    powers: dict[str, int] = {}
    at, sign, times, last = 0, 1, 1, ""
    while at < len(rest):
        match = _UNIT_TOKEN.match(rest, at)
        if match is None or match.end() == at:
            return None
        at = match.end()
        word, power = match.group(1), int(match.group(3) or 1)
        if match.group(4) or word == "per":
            if sign < 0 and not last:
                return None
            sign, last = -1, ""
        elif word in ("squared", "cubed") and last:
            powers[last] = powers[last] * _POWER_WORDS[word]
        elif word in _POWER_WORDS:
            times = _POWER_WORDS[word]
        elif word:
            name = _unit_name(word, spaced)
            if name is None:
                return None
            base, _, own = name.partition("^")
            powers[base] = powers.get(base, 0) + sign * times * power * int(own or 1)
            sign, times, last = 1, 1, base
    return powers if last else None


def _unit_name(word: str, spaced: bool) -> str | None:
    if len(word) == 1 and not (spaced or word in _SINGLE):
        return None
    if word in _NAMES:
        return _NAMES[word]
    if word in _PREFIXED:
        return word if spaced else None
    return _NAMES.get(word.lower()) if len(word) > 1 else None


def _foreign(text: str) -> tuple[str, str] | None:
    """(the number, its unit) where words of another script or with accents follow a number: `192公斤`, `5 рублей`."""
    if text.isascii():
        return None
    value = _VALUE.match(text)
    if value is None:
        return None
    words = text[value.end() :].strip()
    if not words or words.isascii() or not words.replace(" ", "").replace("/", "").isalpha():
        return None
    if _FOREIGN_QUALIFIERS.search(words.lower()) and words not in _NAMES:
        return None
    return text[: value.end()].strip(), _NAMES.get(words, words)


def _is_unit(words: str) -> bool:
    return _QUALIFIERS.isdisjoint(re.findall(r"[a-z]+", words.lower()))


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


def is_known(unit: str) -> bool:
    """Whether `unit` measures something: money, lengths, ... and not things that are counted."""
    return bool(unit) and unit != "unit" and all(part.partition("^")[0] in _KNOWN for part in unit.split("*"))


def conflict(a: str, b: str) -> bool:
    """Whether both are known units and not the same ones (100 cm is not 100 m, nor 5 m 5 m/s). `$5` may be short for `$5 per
    hour`, and 20 degrees for 20 degrees Celsius."""
    if a == b or not a or not b or {a, b} == {"lb", "pounds"}:  # `30 pounds` may be money
        return False
    left, right = set(a.split("*")), set(b.split("*"))
    bases = {part.partition("^")[0] for part in left | right}
    if not bases <= _KNOWN or "unit" in bases:
        return False
    shorter = min(left, right, key=len)
    return not (shorter <= _SHORT_FOR_MORE and shorter <= left & right)
