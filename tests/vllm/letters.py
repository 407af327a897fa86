"""A tokenizer of 101 words for the tiny models, as files that vLLM reads."""

from pathlib import Path

PIECES = [chr(97 + i) for i in range(26)] + ["<end>", "ab", "cde", "xyz"] + [f"[{i}]" for i in range(71)]
"""Token i is a letter, or a few of them; token 26 is special."""


def save_tokenizer(folder: str | Path):
    """Write it beside the config in `folder`; returns it."""
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(PIECES)}, unk_token="a"))
    inner.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", clean_up_tokenization_spaces=False)
    tokenizer.save_pretrained(folder)
    return tokenizer


def text_of(token_ids: list[int]) -> str:
    """All pieces, special ones included: what stop strings are looked for in."""
    return "".join(PIECES[i] for i in token_ids)
