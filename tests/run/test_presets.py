"""Model presets: shapes against published parameter counts and transformers, layouts against the plan's rules."""

import pytest
import torch
import transformers

from pipeline.run.compose import compose
from pipeline.run.door import preset_names
from pipeline.run.memory import GIB, estimate
from pipeline.run.plan import check, data_parallel, world_size
from pipeline.run.shapes import count, on_rank
from pipeline.settings import Model
from pipeline.settings.engine import chosen_engine

MODELS = [name for name in preset_names("model") if not name.startswith("tiny")]

PUBLISHED = {
    "0.6b": 596_049_920, "1.7b": 1_720_574_976, "4b": 4_022_468_096, "8b": 8_190_735_360, "14b": 14_768_307_200,
    "32b": 32_763_876_352, "llama3.1-8b": 8_030_261_248, "qwen2.5-math-7b": 7_615_616_512, "30b-a3b": 30_532_122_624,
    "smollm2-135m": 134_515_008,
}  # fmt: skip


def words(name):
    return ["stage=rl", f"model={name}", "data=none.yaml", "algo=none.yaml"]


@pytest.fixture
def settings(tmp_path, monkeypatch):
    """Composes a model preset alone, whatever the other groups' presets are."""
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    (tmp_path / "none.yaml").write_text("{}")
    return lambda name, *more: compose([*words(name), *more])


def hugging_face(model: Model) -> transformers.PretrainedConfig:
    kind = {"qwen2": "Qwen2Config", "qwen3": "Qwen3Config", "llama": "LlamaConfig", "qwen3_moe": "Qwen3MoeConfig"}
    values = {
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.ffn_hidden_size,
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_query_groups,
        "head_dim": model.head_dim,
        "tie_word_embeddings": model.tie_word_embeddings,
        "max_position_embeddings": model.max_position_embeddings,
    }
    if model.experts.count:
        values |= {
            "num_experts": model.experts.count,
            "num_experts_per_tok": model.experts.per_token,
            "moe_intermediate_size": model.experts.ffn_hidden_size,
        }
    return getattr(transformers, kind[model.family])(**values)


@pytest.mark.parametrize("name", MODELS)
def test_the_shape_gives_the_published_parameter_count(settings, name):
    model = settings(name).model
    assert count(model).total == model.parameters == PUBLISHED[name]
    assert model.published_as


@pytest.mark.parametrize("name", MODELS)
def test_transformers_builds_as_many_parameters(settings, name):
    model = settings(name).model
    with torch.device("meta"):
        built = transformers.AutoModelForCausalLM.from_config(hugging_face(model))
    assert sum(parameter.numel() for parameter in built.parameters()) == model.parameters


@pytest.mark.parametrize("nodes", [1, 2, 4, 8])
@pytest.mark.parametrize("name", MODELS)
def test_every_preset_has_a_layout_that_works_and_fits(settings, name, nodes):
    chosen = settings(name, f"cluster.nnodes={nodes}")
    check(chosen)
    assert world_size(chosen) == 8 * nodes
    memory = estimate(chosen, data_parallel(chosen), chosen_engine(chosen), on_gpu=True)
    assert memory.peak < chosen.cluster.device_memory_gib * GIB


@pytest.mark.parametrize(("name", "tp", "pp", "ep"), [("8b", 4, 1, 1), ("32b", 8, 2, 1), ("30b-a3b", 1, 2, 8)])
def test_the_ranks_of_one_copy_hold_the_model_between_them(settings, name, tp, pp, ep):
    chosen = settings(name)
    layout = chosen.layout.model_copy(update={"tp": tp, "pp": pp, "ep": ep})
    dense, experts = on_rank(chosen.model, layout)
    counts = count(chosen.model)
    assert experts * pp * ep == counts.layers * counts.experts
    repeated = counts.layers * counts.norms * (tp - 1) + counts.final_norm * tp * pp  # norms are whole on every rank
    shared = counts.embedding + counts.head
    ends = shared if pp == 1 else max(counts.embedding, counts.head) * pp  # the fullest stage's, taken for all
    total = counts.layers * (counts.matrices + counts.norms) + repeated + ends
    assert dense * tp * pp == total


def test_memory_by_hand(settings):
    """8b on one node at tp 4: 36 layers of 192,946,432 parameters, of which norms are whole, and two ends of 151,936 x
    4,096; bf16 weights, fp32 gradients, fp32 master and two moments over two data-parallel ranks."""
    chosen = settings("8b")
    layer = 4096 * (2 * 4096 + 2 * 1024) + 3 * 4096 * 12288
    own = 36 * (layer // 4 + 2 * 4096 + 2 * 128) + 2 * 151_936 * 4096 // 4 + 4096
    memory = estimate(chosen, data_parallel=2, engine="vllm", on_gpu=True)
    assert memory.weights == 2 * own
    assert memory.gradients == 4 * own
    assert memory.optimizer == 12 * own // 2
    # A chunk of logits at its limit, and the output weight's gradient in bf16 beside its fp32 sum.
    assert memory.head == (640 << 20) + 151_936 // 4 * 4096 * (2 + 4)
    assert memory.reference == 0
