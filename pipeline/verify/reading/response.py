"""What counts of a response: not its thinking, and nothing beyond its own turn."""

import re

WINDOW = 40_000
"""Characters at the end of a response that are looked at."""
_THINK_END = re.compile(r"</(?:think|thinking|thought|reasoning)>|<\|end_of_thought\|>|◁/think▷", re.I)
_THINK_START = re.compile(r"<(?:think|thinking|thought|reasoning)>|<\|begin_of_thought\|>|◁think▷", re.I)
_TURN_END = re.compile(
    r"<\|im_end\|>|<\|im_start\|>\s*(?:user|system)|<\|endoftext\|>|<\|eot_id\|>|<\|end_of_text\|>|<\|eom_id\|>|</s>|<eos>|<end_of_turn>"
)
_SPECIAL = ("hink", "hought", "easoning", "HINK", "HOUGHT", "EASONING", "<|", "</s>", "<eos>", "<end_of_turn>", "◁")
"""One of these is in every text that the three patterns above match somewhere (in sane spellings)."""


def visible(response: str) -> str:
    """What counts of a response: after its thinking, within its own turn."""
    text = response[-WINDOW:]
    if ("<" in text or "◁" in text) and any(map(text.__contains__, _SPECIAL)):
        end = None
        for match in _THINK_END.finditer(text):
            end = match.end()
        if end is not None:
            text = text[end:]
        if _THINK_START.search(text):  # it is still thinking: nothing was answered
            text = text[: _THINK_START.search(text).start()]  # type: ignore[union-attr]
        if text.startswith("<|im_start|>assistant"):
            text = text[len("<|im_start|>assistant") :]
        turn = _TURN_END.search(text)
        if turn:
            text = text[: turn.start()]
    elif len(response) > WINDOW and _THINK_START.search(response[:200]):
        return "" if not _THINK_END.search(response) else text.strip()
    return text.strip()
