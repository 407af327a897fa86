"""A preset derived from config.json: as the project's own preset of that model, able to run, and refused where it must be.

The config.json files are those of the published models, without the keys that say nothing about the shape.
"""

import json

import pytest
import torch
import transformers
import yaml
from tiny_models import FAMILIES, tiny_model

from megatron_patches.model.weights.mapping import entries
from pipeline.common.errors import InputError
from pipeline.run.compose import compose, read_preset
from pipeline.run.plan import check
from pipeline.settings.config_json import (
    CLASSES,
    DEFAULTS,
    MAX_WINDOW_LAYERS,
    NORM_EPS,
    OTHER_FAMILIES,
    ROPE_THETA,
    SIZES,
    shape_of,
)
from pipeline.settings.derive import derive, describe, to_yaml
from pipeline.settings.published import tensor_shapes

QWEN2 = {
    "model_type": "qwen2",
    "architectures": ["Qwen2ForCausalLM"],
    "use_sliding_window": False,
    "torch_dtype": "bfloat16",
}
QWEN3 = {
    "model_type": "qwen3",
    "head_dim": 128,
    "attention_bias": False,
    "use_sliding_window": False,
    "rope_scaling": None,
}
LLAMA = {
    "model_type": "llama",
    "mlp_bias": False,
    "attention_bias": False,
    "pretraining_tp": 1,
    "torch_dtype": "bfloat16",
}
LLAMA3_ROPE = {
    "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192
}  # fmt: skip


def sizes(layers, hidden, width, heads, groups, vocabulary, context, **more):
    values = (layers, hidden, width, heads, vocabulary, context)
    return dict(zip(SIZES, values, strict=True)) | {"num_key_value_heads": groups, "hidden_act": "silu"} | more


PUBLISHED = {
    "qwen2.5-math-7b": QWEN2
    | sizes(
        28, 3584, 18944, 28, 4, 152064, 4096, rms_norm_eps=1e-6, rope_theta=10000, sliding_window=4096, use_mrope=False
    ),
    "32b": QWEN2
    | sizes(64, 5120, 27648, 40, 8, 152064, 131072, rms_norm_eps=1e-5, rope_theta=1e6, max_window_layers=64),
    "8b": QWEN3 | sizes(36, 4096, 12288, 32, 8, 151936, 32768, rms_norm_eps=1e-6, rope_theta=1000000),
    "0.6b": QWEN3
    | sizes(28, 1024, 3072, 16, 8, 151936, 40960, rms_norm_eps=1e-6, rope_theta=1000000, tie_word_embeddings=True),
    "llama3.1-8b": LLAMA
    | sizes(32, 4096, 14336, 32, 8, 128256, 131072, rms_norm_eps=1e-5, rope_theta=500000.0)
    | {"rope_scaling": LLAMA3_ROPE | {"factor": 8.0}, "eos_token_id": [128001, 128008, 128009]},
    "smollm2-135m": LLAMA
    | sizes(30, 576, 1536, 9, 3, 49152, 8192, rms_norm_eps=1e-5, rope_theta=100000, tie_word_embeddings=True)
    | {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"kv_cache_dtype": {}}},
    "30b-a3b": {"model_type": "qwen3_moe", "head_dim": 128, "decoder_sparse_step": 1, "mlp_only_layers": []}
    | sizes(48, 2048, 6144, 32, 4, 151936, 40960, rms_norm_eps=1e-6, rope_theta=1000000.0)
    | {"num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "norm_topk_prob": True},
}
"""By the project's preset of the same model."""
OTHERS = {
    "qwen2.5-0.5b": QWEN2
    | sizes(24, 896, 4864, 14, 2, 151936, 32768, rms_norm_eps=1e-6, rope_theta=1e6, tie_word_embeddings=True),
    "llama3.2-1b": LLAMA
    | sizes(
        16, 2048, 8192, 32, 8, 128256, 131072, rms_norm_eps=1e-5, rope_theta=5e5, tie_word_embeddings=True, head_dim=64
    )
    | {"rope_scaling": LLAMA3_ROPE | {"factor": 32.0}},
    "mistral-7b-v0.3": {"model_type": "mistral", "sliding_window": None, "architectures": ["MistralForCausalLM"]}
    | sizes(32, 4096, 14336, 32, 8, 32768, 32768, rms_norm_eps=1e-5, rope_theta=1e6),
    "mistral-7b-v0.1": {"model_type": "mistral", "sliding_window": 4096}
    | sizes(32, 4096, 14336, 32, 8, 32000, 32768, rms_norm_eps=1e-5, rope_theta=1e4),
    "tinyllama": LLAMA | sizes(22, 2048, 5632, 32, 4, 32000, 2048, rms_norm_eps=1e-5),
}
PARAMETERS = {
    "qwen2.5-0.5b": 494_032_768, "llama3.2-1b": 1_235_814_400, "mistral-7b-v0.3": 7_248_023_552,
    "mistral-7b-v0.1": 7_241_732_096, "tinyllama": 1_100_048_384,
}  # fmt: skip
"""As published."""


def folder_of(tmp_path, config):
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_shape_is_that_of_the_projects_own_preset(tmp_path, name):
    derived = compose(["stage=convert", f"model={written(tmp_path, PUBLISHED[name])}", "name=x"]).model
    own = compose(["stage=convert", f"model={name}", "name=x"]).model
    apart = {"path", "published_as", "layouts"}
    assert derived.model_dump(exclude=apart) == own.model_dump(exclude=apart)


def written(tmp_path, config, gpus=8):
    file = tmp_path / "model.yaml"
    file.write_text(to_yaml(derive(folder_of(tmp_path, config), gpus)))
    return file


@pytest.mark.parametrize("name", OTHERS)
def test_parameters_of_models_without_a_preset(tmp_path, name):
    assert derive(folder_of(tmp_path, OTHERS[name]))["model"]["parameters"] == PARAMETERS[name]


@pytest.mark.parametrize(("gpus", "cluster"), [(0, "local"), (1, "gpu1"), (8, "gpu8")])
@pytest.mark.parametrize("name", [*PUBLISHED, *OTHERS])
def test_the_layout_works_wherever_the_model_fits(tmp_path, name, gpus, cluster):
    file = written(tmp_path, (PUBLISHED | OTHERS)[name], gpus)
    assert set(read_preset(file, allow_defaults=True)) >= {"defaults", "model"}
    roomy = "cluster.device_memory_gib=2000"  # whether it fits is not the question
    nodes = 2 if gpus == 8 and name in ("32b", "30b-a3b") else 1
    settings = compose(["stage=rl", f"model={file}", roomy, f"cluster.nnodes={nodes}", "rl.prompts_per_step=32"])
    check(settings)
    assert settings.cluster_name == cluster
    if gpus == 0:
        assert (settings.layout.tp, settings.model.dtype) == (1, "fp32")


def test_lengths_fit_in_a_short_context(tmp_path):
    tree = derive(folder_of(tmp_path, OTHERS["tinyllama"]))
    assert tree["rollout"] == {"max_prompt_tokens": 1024, "max_new_tokens": 1024}
    assert tree["sft"] == {"sequence_length": 2048}


def test_a_window_limits_the_context(tmp_path):
    assert derive(folder_of(tmp_path, OTHERS["mistral-7b-v0.1"]))["model"]["max_position_embeddings"] == 4096


def test_what_was_derived_is_said(tmp_path):
    text = describe(derive(folder_of(tmp_path, OTHERS["mistral-7b-v0.3"])))
    for part in (
        "llama, 32 layers",
        "32 heads in 8 groups",
        "context 32768",
        "7,248,023,552 parameters",
        "1 node: tp 4",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model_type": "gemma2"},
            "model_type is 'gemma2', which the actor does not compute. Supported are qwen2, qwen3, ",
        ),
        ({"model_type": None}, "model_type is None"),
        ({"hidden_size": None}, "does not describe a model"),
        ({"hidden_size": "many"}, "hidden_size is 'many', which is not a whole number"),
        ({"quantization_config": {"quant_method": "gptq"}}, "the weights are quantized"),
        ({"no_rope_layers": [1, 1, 0]}, "model.ignore_keys=no_rope_layers"),
    ],
)
def test_other_models_are_refused_with_what_is_wrong(tmp_path, changes, said):
    with pytest.raises(InputError) as caught:
        derive(folder_of(tmp_path, OTHERS["tinyllama"] | changes))
    assert said in str(caught.value)


OTHER_KINDS = (
    "gemma", "gemma2", "gemma3_text", "phi3", "deepseek_v2", "deepseek_v3", "gpt_oss", "olmo2", "olmoe", "glm4_moe",
    "nemotron", "qwen3_next",
)  # fmt: skip


@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_another_family_is_told_what_works_and_that_megatron_bridge_does_not(tmp_path, kind):
    with pytest.raises(InputError) as caught:
        derive(folder_of(tmp_path, OTHERS["tinyllama"] | {"model_type": kind}))
    said = str(caught.value)
    assert f"model_type is '{kind}'" in said
    assert all(family in said.split("Supported are")[1].split("(")[0].strip().split(", ") for family in CLASSES)
    for part in ("Megatron-Bridge is not part", "a newer megatron-core", "A model of your own"):
        assert part in said


def test_the_reason_against_megatron_bridge_holds_for_the_lock():
    """It asks for transformers below 5: when the lock goes there, the sentence must go."""
    assert "transformers below 5 where this project has 5" in OTHER_FAMILIES
    assert int(transformers.__version__.partition(".")[0]) == 5


def test_a_phi3_is_a_llama_once_its_joined_tensors_are_split(tmp_path):
    """The way that the refusal names: same logits, and the folder is derived like any Llama."""
    sizes_of = {
        "vocab_size": 96, "hidden_size": 64, "intermediate_size": 80, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
    }  # fmt: skip
    torch.manual_seed(0)
    phi = transformers.Phi3ForCausalLM(transformers.Phi3Config(**sizes_of)).float().eval()
    tensors = {}
    for name, tensor in phi.state_dict().items():
        layer = name.rpartition(".mlp.")[0] or name.rpartition(".self_attn.")[0]
        if name.endswith("qkv_proj.weight"):
            parts = zip("qkv", tensor.split([64, 32, 32]), strict=True)
            tensors |= {f"{layer}.self_attn.{part}_proj.weight": rows for part, rows in parts}
        elif name.endswith("gate_up_proj.weight"):
            parts = zip(("gate", "up"), tensor.chunk(2), strict=True)
            tensors |= {f"{layer}.mlp.{part}_proj.weight": rows for part, rows in parts}
        else:
            tensors[name] = tensor
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes_of)).float().eval()
    llama.load_state_dict(tensors)
    tokens = torch.randint(3, 96, (2, 24))
    with torch.no_grad():
        torch.testing.assert_close(llama(tokens).logits, phi(tokens).logits, rtol=0, atol=1e-5)
    llama.save_pretrained(tmp_path)
    assert derive(tmp_path)["model"]["family"] == "llama"
    with pytest.raises(InputError, match="phi3"):
        derive(folder_of(tmp_path, phi.config.to_dict()))


@pytest.mark.parametrize("key", SIZES)
def test_a_missing_size_is_named(tmp_path, key):
    config = {name: value for name, value in OTHERS["tinyllama"].items() if name != key}
    with pytest.raises(InputError, match=f"has no {key}"):
        derive(folder_of(tmp_path, config))


@pytest.mark.parametrize("kind", CLASSES)
def test_missing_keys_mean_what_transformers_assumes(kind):
    """The defaults here are those of the installed transformers."""
    theirs = getattr(transformers, f"{CLASSES[kind]}Config")()
    said = {key: getattr(theirs, key) for key in SIZES}
    ours = shape_of({"model_type": kind} | said, "config.json")
    assert ours["num_query_groups"] == theirs.num_key_value_heads
    width = getattr(theirs, "head_dim", None) or theirs.hidden_size // theirs.num_attention_heads
    assert ours["head_dim"] == width
    assert ours["norm_eps"] == theirs.rms_norm_eps == NORM_EPS
    assert ours["rope"]["theta"] == theirs.default_theta == ROPE_THETA
    assert ours["tie_word_embeddings"] == theirs.tie_word_embeddings
    assert getattr(theirs, "max_window_layers", MAX_WINDOW_LAYERS) == MAX_WINDOW_LAYERS
    if kind == "mistral":
        assert theirs.sliding_window == DEFAULTS[kind]["sliding_window"]
    if kind == "qwen3_moe":
        names = ("num_experts", "num_experts_per_tok", "moe_intermediate_size", "norm_topk_prob")
        assert tuple(ours["experts"].values()) == tuple(getattr(theirs, name) for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_published_tensors_are_those_that_the_mapping_reads(family):
    model = tiny_model(family)
    assert [name for entry in entries(model) for name in entry.hf if name not in tensor_shapes(model)] == []
    assert {name for entry in entries(model) for name in entry.hf} == tensor_shapes(model).keys()


def test_the_file_is_yaml_that_says_where_it_comes_from(tmp_path):
    text = to_yaml(derive(folder_of(tmp_path, OTHERS["tinyllama"])))
    assert text.startswith(f"# Derived from {tmp_path}/config.json.")
    assert yaml.safe_load(text)["model"]["layouts"][1] == {"tp": 1, "micro_batch_tokens": 16384}
