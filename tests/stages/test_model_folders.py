"""A model folder that differs from the preset, or is incomplete, is refused with what differs and what to do."""

import json
import re
import stat

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from pipeline.common.errors import InputError, UsageError
from pipeline.models.folders import check_folder, random_model
from pipeline.models.tensors import INDEX, SINGLE
from pipeline.run.compose import compose
from pipeline.run.plan import check

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


def test_a_complete_folder_is_accepted(folder):
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


def test_missing_truncated_and_incomplete_weights(folder):
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


def test_a_config_that_is_not_json(folder):
    (folder / "config.json").write_text("{")
    assert "is not JSON" in refusal(folder)


def test_a_tensor_without_a_place_is_refused(folder):
    weights = load_file(folder / SINGLE)
    derivable = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8),
        "lm_head.weight": weights["model.embed_tokens.weight"],
    }
    save_file(weights | {name: tensor.clone() for name, tensor in derivable.items()}, folder / SINGLE)
    check_folder(folder, MODEL)
    save_file(weights | {"lm_head.weight": weights["model.embed_tokens.weight"] + 1}, folder / SINGLE)
    assert "tie_word_embeddings is true, and lm_head.weight differs" in refusal(folder)
    for name in ("model.layers.0.self_attn.o_proj.bias", "lm_head.bias", "model.layers.2.input_layernorm.weight"):
        save_file(weights | {name: torch.ones(64)}, folder / SINGLE)
        assert f"the tensor {name} has no place" in refusal(folder)


def test_a_missing_tensor_and_one_of_another_shape_are_named(folder):
    weights = load_file(folder / SINGLE)
    name = "model.layers.1.mlp.up_proj.weight"
    save_file({key: value for key, value in weights.items() if key != name}, folder / SINGLE)
    assert f"has no tensor {name!r}" in refusal(folder)
    save_file(weights | {name: torch.ones(3, 3)}, folder / SINGLE)
    assert f"{name} has shape (3, 3), and its config.json means (96, 64)" in refusal(folder)


def test_quantized_weights_and_adapters_are_refused(folder, tmp_path):
    weights = load_file(folder / SINGLE)
    name = "model.layers.0.mlp.up_proj.weight"
    save_file(weights | {name: weights[name].to(torch.int8)}, folder / SINGLE)
    assert f"{name} is of type I8: the weights are quantized" in refusal(folder)
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text("{}")
    assert "is an adapter (LoRA). Merge it" in refusal(folder)


def test_floats_may_be_those_nearest_in_fp32(folder):
    edit(folder, rms_norm_eps=9.999999974752427e-07)
    check_folder(folder, MODEL)


def test_a_preset_may_use_less_than_the_context(folder):
    check_folder(folder, MODEL.model_copy(update={"max_position_embeddings": 128}))


def test_keys_that_the_user_vouches_for(folder):
    edit(folder, house_style=3)
    assert "house_style is 3" in refusal(folder)
    check_folder(folder, MODEL.model_copy(update={"ignore_keys": ["house_style"]}))


def test_only_stages_that_generate_need_room_for_responses():
    words = ["model=tiny", "model.max_position_embeddings=64", "rollout.max_new_tokens=128"]
    check(compose(["stage=convert", *words]))
    check(compose(["stage=export", *words]))
    with pytest.raises(UsageError, match="exceed the model's context of 64 tokens"):
        check(compose(["stage=rl", *words]))


def test_the_warm_up_and_convert_leave_what_others_can_read(house):
    """Permissions follow the umask, generation uses its cache, and convert says how close it is to transformers."""
    warm = house.root() / "sft" / "hf"
    assert json.loads((warm / "config.json").read_text())["use_cache"] is True
    assert {stat.S_IMODE(file.stat().st_mode) for file in warm.iterdir()} == {
        stat.S_IMODE((house.folder / "micro.yaml").stat().st_mode)
    }
    said = house.run("convert", "force=true").out
    match = re.search(r"logits of 16 tokens compared with transformers: largest difference (\S+),", said)
    assert match, said
    assert float(match[1]) < 1e-4


def test_random_weights_follow_the_seed():
    def embedding(seed: int) -> torch.Tensor:
        return random_model(MODEL, 50, {}, seed).get_input_embeddings().weight

    assert embedding(0).equal(embedding(0))
    assert not embedding(0).equal(embedding(1))
