"""MFU's two parts, by hand."""

import pytest
from tiny_models import tiny_model

from pipeline.rl.utilization import active_parameters, peak_of, update_operations
from pipeline.run.shapes import count, visited


def test_operations_of_a_dense_model():
    model = tiny_model("llama")
    attention = model.num_layers * model.num_attention_heads * model.head_dim
    assert update_operations(model, 1000, [10]) == 6 * 1000 * 10 + 12 * attention * 10 * 10 / 2
    assert update_operations(model, 1000, [10, 10]) == 2 * update_operations(model, 1000, [10])


def test_a_token_meets_only_the_experts_that_it_visits():
    model = tiny_model("qwen3_moe")
    counts, experts = count(model), model.experts
    one = 3 * model.hidden_size * experts.ffn_hidden_size * model.num_layers
    active = active_parameters(model, visited(model))
    lookup = 0 if model.tie_word_embeddings else counts.embedding
    assert active == counts.total - lookup - one * (experts.count - experts.per_token)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("Some CPU", None),
    ],
)
def test_peaks(name, peak):
    assert peak_of(name) == peak
