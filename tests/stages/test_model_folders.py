"""A model folder that is not what the preset says, or not whole, is refused with what differs and what to do."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from pipeline.common.errors import InputError
from pipeline.models.folders import check_folder, random_model
from pipeline.models.tensors import INDEX, SINGLE

MODEL = tiny_model("qwen3")


@pytest.fixture
def folder(tmp_path):
    """A whole folder of the model."""
    random_model(MODEL, MODEL.vocab_size, {}, seed=0).save_pretrained(str(tmp_path))
    return tmp_path


def edit(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def refusal(folder):
    with pytest.raises(InputError) as caught:
        check_folder(folder, MODEL)
    return str(caught.value)


def test_a_whole_folder_is_taken(folder):
    check_folder(folder, MODEL)


def test_a_missing_folder_and_one_without_config(tmp_path):
    assert "no such folder" in refusal(tmp_path / "none")
    assert "has no config.json" in refusal(tmp_path)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model_type": "gemma"}, ["model_type is 'gemma'", "Supported are", "qwen3"]),
        ({"model_type": "qwen2", "architectures": None}, ["model_type is 'qwen2'", "model.family=qwen3"]),
        ({"num_hidden_layers": 3}, ["num_hidden_layers is 3", "model.num_layers=2"]),
        ({"tie_word_embeddings": False}, ["tie_word_embeddings is False"]),
        ({"head_dim": 8}, ["head_dim is 8", "model.head_dim=16"]),
        ({"rms_norm_eps": 1e-5}, ["rms_norm_eps", "model.norm_eps=1e-06"]),
        (
            {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
            ["rope_theta is 500.0", "model.rope.theta"],
        ),
        ({"rope_parameters": None, "rope_theta": 7.0}, ["rope_theta is 7.0"]),  # as older configs spell it
        ({"rope_scaling": {"type": "yarn"}, "rope_parameters": None}, ["rope_type is 'yarn'"]),
        ({"vocab_size": 99}, ["embed_tokens", "(101, 64)", "(99, 64)"]),
    ],
)
def test_another_model_is_refused_naming_what_differs(folder, values, said):
    edit(folder, **values)
    text = refusal(folder)
    for part in said:
        assert part in text, text


def test_weights_that_are_missing_truncated_or_not_all_there(folder):
    whole = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(whole[:-1000])
    assert "cannot be read" in refusal(folder)
    (folder / SINGLE).unlink()
    assert "holds no weights" in refusal(folder)
    (folder / SINGLE).write_bytes(whole)
    weights = load_file(folder / SINGLE)
    save_file({name: weights[name] for name in list(weights)[:3]}, folder / "model-1.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(weights, "model-1.safetensors")}))
    assert f"which {INDEX} promises" in refusal(folder)
    (folder / INDEX).write_text("{")
    assert "is damaged" in refusal(folder)


def test_a_config_that_is_no_json(folder):
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refusal(folder)


def test_random_weights_follow_the_seed():
    def embedding(seed: int) -> torch.Tensor:
        return random_model(MODEL, 50, {}, seed).get_input_embeddings().weight

    assert embedding(0).equal(embedding(0))
    assert not embedding(0).equal(embedding(1))
