"""A tokenizer of 101 tokens for the tiny models, as files that vLLM reads."""

from pathlib import Path

PIECES = [chr(97 + i) for i in range(26)] + ["<end>", "ab", "cde", "xyz"] + [f"[{i}]" for i in range(71)]
"""Token i is a letter, or a few of them; token 26 is special."""


def save_tokenizer(folder: str | Path):
    """Writes the tokenizer next to the config in `folder`, and returns it."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="a"))
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", clean_up_tokenization_spaces=False)
    tokenizer.save_pretrained(folder)
    return tokenizer


def text_of(token_ids: list[int]) -> str:
    """Joins all pieces, special ones included; stop strings are searched in this text."""
    return "".join(PIECES[i] for i in token_ids)
