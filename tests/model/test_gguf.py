"""GGUF files as models: what the folder computes, and what is refused by name. The files are written here."""

import json

import pytest
import torch
from gguf_files import architecture_of, settings_of, tensors_of, tiny, vocabulary, write

from pipeline.common.errors import InputError
from pipeline.models import gguf as reader
from pipeline.settings.derive import derive

pytest.importorskip("gguf", reason="the package gguf is not installed (ETR_EXTRAS=gguf adds it)")
pytest.importorskip("accelerate", reason="the package accelerate is not installed (ETR_EXTRAS=gguf adds it)")


@pytest.fixture(scope="module")
def llama():
    return tiny("llama")


def loaded(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize(
    ("family", "tied"), [("llama", False), ("llama", True), ("qwen2", False), ("qwen3", True), ("qwen3_moe", False)]
)
def test_the_folder_computes_what_the_file_was_written_from(tmp_path, family, tied):
    hf = tiny(family, tie_word_embeddings=tied)
    file = write(tmp_path / "a.gguf", tensors_of(hf), settings_of(hf), architecture_of(hf))
    said = reader.convert(file, tmp_path / "a")
    assert f"{hf.num_parameters():,} parameters" in said
    ids = torch.arange(3, 40)[None]
    assert torch.equal(loaded(tmp_path / "a")(ids).logits, hf(ids).logits)
    model = derive(tmp_path / "a", gpus=0)["model"]
    assert (model["family"], model["num_layers"], model.get("tie_word_embeddings", False)) == (family, 2, tied)
    assert model["norm_eps"] == pytest.approx(hf.config.rms_norm_eps, rel=1e-6)


def test_quantized_tensors_become_the_numbers_that_they_stand_for(tmp_path, llama):
    import gguf

    tensors = tensors_of(llama)
    file = write(tmp_path / "a.gguf", tensors, settings_of(llama), quantized="Q8_0")
    assert "from F32, Q8_0" in reader.convert(file, tmp_path / "a")
    kind = gguf.GGMLQuantizationType.Q8_0
    want = gguf.dequantize(gguf.quants.quantize(tensors["blk.1.ffn_up.weight"], kind), kind)
    got = loaded(tmp_path / "a").state_dict()["model.layers.1.mlp.up_proj.weight"]
    assert torch.equal(got, torch.from_numpy(want))
    assert not torch.equal(got, llama.state_dict()["model.layers.1.mlp.up_proj.weight"])


def test_the_tokenizer_comes_along(tmp_path, llama):
    from pipeline.data import tokenizer

    write(tmp_path / "a.gguf", tensors_of(llama), settings_of(llama))
    reader.convert(tmp_path / "a.gguf", tmp_path / "a")
    found = tokenizer.load(tmp_path / "a")
    assert found.encode("he<|im_end|>", add_special_tokens=False) == [vocabulary()[0].index("he"), 1]
    assert found.eos_token_id == 1
    assert json.loads((tmp_path / "a" / "config.json").read_text())["eos_token_id"] == 1


@pytest.mark.parametrize(
    ("changes", "extra", "named"),
    [
        ({"llama.rope.scaling.type": "yarn"}, {}, "llama.rope.scaling.type is yarn"),
        ({"llama.rope.scaling.factor": 4.0}, {}, "llama.rope.scaling.factor is 4.0"),
        ({"llama.attention.sliding_window": 64}, {}, "llama.attention.sliding_window is 64"),
        ({"llama.logit_scale": 0.5}, {}, "llama.logit_scale is 0.5"),
        ({"llama.something_new": 1}, {}, "llama.something_new is 1"),
        ({"llama.attention.key_length": 32}, {}, "llama.attention.key_length is 32, and transformers reads 16"),
        ({"general.type": "adapter"}, {}, "general.type is 'adapter'"),
        ({"split.count": 3}, {}, "one of 3 parts"),
        ({}, {"rope_freqs.weight": (8,)}, "rope_freqs.weight"),
        ({}, {"blk.0.attn_q.bias": (64,)}, "no place for blk.0.attn_q.bias"),
        ({}, {"blk.1.ffn_up.weight": None}, "no tensor for"),
        ({"architecture": "gemma2"}, {}, "the architecture gemma2 is not supported"),
        ({"architecture": "phi3"}, {}, "the architecture phi3 is not supported.*Megatron-Bridge is not part"),
        ({"tokenizer": False}, {}, "no tokenizer"),
    ],
)
def test_what_the_folder_would_not_have_is_refused_by_name(tmp_path, llama, changes, extra, named):
    import numpy as np

    options = {key: changes[key] for key in changes if key in ("architecture", "tokenizer")}
    settings = settings_of(llama) | {key: value for key, value in changes.items() if key not in options}
    tensors = tensors_of(llama) | {name: np.ones(shape, np.float32) for name, shape in extra.items() if shape}
    tensors = {name: data for name, data in tensors.items() if extra.get(name, 1) is not None}
    write(tmp_path / "a.gguf", tensors, settings, **options)
    with pytest.raises(InputError, match=named.replace(".", r"\.").replace(r"\.*", ".*")):
        reader.convert(tmp_path / "a.gguf", tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.6, 0.999])
def test_a_file_that_was_cut_off_is_refused(tmp_path, llama, share):
    whole = write(tmp_path / "whole.gguf", tensors_of(llama), settings_of(llama)).read_bytes()
    (tmp_path / "a.gguf").write_bytes(whole[: 6 + int(share * (len(whole) - 6))])
    with pytest.raises(InputError, match=r"a\.gguf is damaged or cut off"):
        reader.convert(tmp_path / "a.gguf", tmp_path / "a")
