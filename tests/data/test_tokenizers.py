"""Both forms of a trained tokenizer segment alike, lose nothing, and spell every digit by itself."""

import random

import pytest
import sentencepiece as spm

from pipeline.data import arithmetic, tokenizer
from pipeline.settings import Arithmetic

RNG = random.Random(0)
TEXTS = [
    f"A train travels {RNG.randint(10, 999)} miles in {RNG.randint(2, 9)} hours.\nFind $\\frac{{{RNG.randint(1, 99)}}}"
    f"{{x}}$ where $x\\geq {RNG.randint(100, 9999)}$, and give it as \\boxed{{{RNG.choice('abcxyz')}}}."
    for _ in range(200)
]
STRANGE = ["  two  spaces ", "\n\n", "\t", "日本語 and é", "🙂", "", "</s> is text", "\\boxed{\\boxed{1}}", "▁"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    tokenizer.train_words(TEXTS, folder, 400)
    return tokenizer.load(folder), spm.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def ids_of(fast, text):
    return fast.encode(text, add_special_tokens=False, split_special_tokens=True)


def test_both_forms_segment_alike(trained):
    fast, slow = trained
    assert len(fast) == slow.get_piece_size() <= 400
    for text in (*TEXTS, *STRANGE[:6], STRANGE[7]):
        assert ids_of(fast, text) == slow.encode(text), text


def test_nothing_is_lost_or_unknown(trained):
    fast, _ = trained
    for text in (*TEXTS, *STRANGE[:8]):
        ids = ids_of(fast, text)
        assert fast.decode(ids) == text
        assert fast.unk_token_id not in ids


def test_every_digit_is_one_piece_and_so_is_the_box(trained):
    fast, _ = trained
    pieces = fast.convert_ids_to_tokens(ids_of(fast, "1234 is \\boxed{56}"))
    assert [piece for piece in pieces if any(c.isdigit() for c in piece)] == list("123456")
    assert "\\boxed{" in pieces


def test_a_special_token_in_a_text_is_text(trained):
    fast, _ = trained
    assert fast.eos_token_id not in ids_of(fast, "</s> is text")


def test_training_again_gives_the_same(trained, tmp_path):
    tokenizer.train_words(TEXTS, tmp_path, 400)
    assert tokenizer.load(tmp_path).get_vocab() == trained[0].get_vocab()


def test_the_embedded_problems_keep_their_characters(tmp_path):
    made = arithmetic.generate(Arithmetic(train=200, held_out=10, sft_rows=300, sft_mixed_rows=10), 0)
    texts = [row["problem"] + row["response"] for row in made.sft]
    tokenizer.train(texts, tmp_path, 64)
    fast, slow = tokenizer.load(tmp_path), spm.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert len(fast) <= 64
    assert all(ids_of(fast, text) == slow.encode(text) for text in texts)
