"""Which tokens end a response."""

from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError
from pipeline.common.files import read_json

TURN_ENDS = ("<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|endoftext|>", "<|end_of_text|>")
"""Tokens that end a turn in published chat templates; a model trained on one stops with it, even if eos_token is another."""


def stop_ids(tokenizer: Any) -> tuple[int, ...]:
    """All tokens that end a response, sorted: the tokenizer's own, those that config.json and generation_config.json beside it
    list as `eos_token_id` (a number or a list), and the usual ends of a turn where the vocabulary has them.

    Raises InputError where one of the two files is damaged or names what is not a token.
    """
    vocabulary = tokenizer.get_vocab()
    ends = {vocabulary[name] for name in TURN_ENDS if name in vocabulary}
    if tokenizer.eos_token_id is not None:
        ends.add(tokenizer.eos_token_id)
    for name in ("config.json", "generation_config.json"):
        file = Path(tokenizer.name_or_path) / name
        if not file.is_file():
            continue
        content = read_json(file)
        said = content.get("eos_token_id") if isinstance(content, dict) else None
        listed = said if isinstance(said, list) else [] if said is None else [said]
        wrong = [one for one in listed if isinstance(one, bool) or not isinstance(one, int)]
        if wrong:
            raise InputError(
                f"{file}: eos_token_id holds {wrong[0]!r}, which is not a token's number; correct the file"
            )
        ends.update(listed)
    return tuple(sorted(ends))
