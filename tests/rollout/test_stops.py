"""Every token that ends a response: the tokenizer's, and those of config.json and generation_config.json beside it."""

import json

import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from pipeline.common.errors import InputError
from pipeline.rollout.stops import stop_ids


@pytest.fixture
def folder(tmp_path):
    """A tokenizer with Llama's ends of a turn."""
    words = Tokenizer(models.BPE(vocab={"a": 0, "<eos>": 1, "<|eot_id|>": 2, "<|eom_id|>": 3, "b": 4}, merges=[]))
    PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<eos>").save_pretrained(tmp_path)
    return tmp_path


def stops(folder):
    return stop_ids(AutoTokenizer.from_pretrained(str(folder)))


def test_the_tokenizers_own_and_the_usual_ends_of_a_turn(folder):
    assert stops(folder) == (1, 2, 3)


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
@pytest.mark.parametrize(
    ("said", "found"), [(4, (1, 2, 3, 4)), ([0, 4], (0, 1, 2, 3, 4)), (None, (1, 2, 3)), ([], (1, 2, 3))]
)
def test_those_that_the_models_files_list(folder, name, said, found):
    content = {"model_type": "llama", "eos_token_id": said} if name == "config.json" else {"eos_token_id": said}
    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    (folder / name).write_text(json.dumps(content))
    assert stop_ids(tokenizer) == found


def test_a_damaged_file_is_named(folder):
    (folder / "generation_config.json").write_text('{"eos_token_id": ["</s>"]}')
    with pytest.raises(InputError, match=r"generation_config\.json: eos_token_id holds '</s>', which is not a token"):
        stops(folder)
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(InputError, match=r"generation_config\.json is not JSON"):
        stops(folder)
