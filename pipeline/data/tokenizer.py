"""Tokenizers: the model's own, or a SentencePiece one trained on the data (the tiny preset).

Everything else loads tokenizers with `load`, that is with transformers. For a trained one the folder therefore holds both:
`tokenizer.model` as SentencePiece wrote it, and the same pieces as a fast tokenizer with the same ids.
"""

import io
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError, UsageError
from pipeline.common.files import naming
from pipeline.settings import Settings

SPECIAL = ("<unk>", "<s>", "</s>", "<pad>")
PIECES = ["\\boxed{", *(str(n) for n in range(10, 20))]
"""Pieces that are one token each: what every response says, and the two-digit totals of the embedded problems."""
WORD_PIECES = ["\\boxed{", "\n"]
"""The same for a tokenizer of files."""


def load(folder: Path | str) -> Any:
    """The tokenizer in `folder`, by transformers. Raises InputError if there is none or it cannot be read."""
    from transformers import AutoTokenizer

    if not Path(folder).is_dir():
        raise InputError(
            f"{folder}: there is no such folder. The preprocess stage makes a tokenizer, or model.path has one"
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{folder} holds no tokenizer that transformers can read ({first})") from error
    if tokenizer.eos_token_id is None:
        raise InputError(f"{folder}: the tokenizer has no end-of-text token (eos_token), so no response could end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def prepare(settings: Settings, texts: Iterable[str], folder: Path) -> Any:
    """Puts the run's tokenizer into `folder` and loads it: trained on `texts`, or copied from `model.path`."""
    folder.mkdir(parents=True, exist_ok=True)
    if settings.data.tokenizer == "sentencepiece":
        if settings.data.source == "arithmetic":
            train(texts, folder, settings.model.vocab_size)
        else:
            train_words(texts, folder, settings.data.vocab_size)
        return load(folder)
    if settings.model.path is None:
        name = settings.model.published_as or "a Hugging Face model"
        raise UsageError(
            f"model.path is not set: download {name} and give its folder as model.path=..., "
            "or set data.tokenizer=sentencepiece to train a tokenizer"
        )
    source = Path(settings.model.path)
    tokenizer = load(source)
    for file in source.iterdir():
        if file.is_file() and any(mark in file.name for mark in ("token", "vocab", "merges", "chat_template")):
            shutil.copyfile(file, folder / file.name)
    return tokenizer


def train(texts: Iterable[str], folder: Path, largest: int) -> None:
    """Trains SentencePiece on short formulas and writes it to `folder` in both forms. At most `largest` pieces.

    The model is of single characters with whole-word pieces for `PIECES`: on problems of a dozen symbols there is
    nothing for merges to gain, and both forms then segment alike by construction.
    """
    model = _train(texts, model_type="char", vocab_size=largest, user_defined_symbols=PIECES, character_coverage=1.0)
    _write(model, folder, PIECES)


def train_words(texts: Iterable[str], folder: Path, largest: int) -> None:
    """Trains SentencePiece on texts of any kind and writes it to `folder` in both forms. At most `largest` pieces.

    Byte pairs over words, every digit one piece, so that a number is spelled the same everywhere, and bytes
    for characters that are too rare for a piece: no text has unknown tokens.
    """
    lines = (line for text in texts for line in text.split("\n") if line)
    model = _train(
        lines,
        model_type="bpe",
        vocab_size=largest,
        user_defined_symbols=WORD_PIECES,
        character_coverage=0.9999,
        byte_fallback=True,
        split_digits=True,
        max_sentence_length=1 << 16,
    )
    _write(model, folder, WORD_PIECES)


def _train(texts: Iterable[str], **options: Any) -> bytes:
    import sentencepiece as spm

    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        unk_piece=SPECIAL[0],
        bos_piece=SPECIAL[1],
        eos_piece=SPECIAL[2],
        pad_piece=SPECIAL[3],
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def _write(model: bytes, folder: Path, whole: list[str]) -> None:
    import sentencepiece as spm

    with naming(folder):
        (folder / "tokenizer.model").write_bytes(model)
    processor = spm.SentencePieceProcessor(model_proto=model)
    pieces = {processor.id_to_piece(i): i for i in range(processor.get_piece_size())}
    with naming(folder):
        _fast(pieces, whole).save_pretrained(str(folder))


def _fast(pieces: dict[str, int], whole: list[str]) -> Any:
    """The same pieces as a fast tokenizer: `whole` ones matched first, the others merged in the order of their ids."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    fallback = "<0x00>" in pieces
    merges = _merges(pieces, {*whole, *SPECIAL})
    tokenizer = Tokenizer(models.BPE(vocab=pieces, merges=merges, unk_token=SPECIAL[0], byte_fallback=fallback))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")  # how SentencePiece writes a space
    to_text = [decoders.ByteFallback()] if fallback else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), *to_text, decoders.Fuse()])
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in whole])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=SPECIAL[0],
        bos_token=SPECIAL[1],
        eos_token=SPECIAL[2],
        pad_token=SPECIAL[3],
        clean_up_tokenization_spaces=False,
    )


def _merges(pieces: dict[str, int], apart: set[str]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, pieces in the order in which training made them."""
    made = [piece for piece in sorted(pieces, key=lambda name: pieces[name]) if len(piece) > 1 and piece not in apart]
    return [
        (piece[:cut], piece[cut:])
        for piece in made
        if not (piece.startswith("<0x") and len(piece) == 6)
        for cut in range(1, len(piece))
        if piece[:cut] in pieces and piece[cut:] in pieces
    ]
