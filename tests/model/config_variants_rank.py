"""Run by test_config_variants.py: each variant against the family's preset, and against the preset derived from it."""

import json
import shutil
import sys
from pathlib import Path

from config_variants import VARIANTS, Variant
from tiny_models import hf_model, tiny_model

from megatron_patches import parallel
from megatron_patches.model.policy_model import build_chunks
from megatron_patches.model.weights import load_hf
from megatron_patches.model.weights.agreement import difference, logits_of, published_logits
from pipeline.common.errors import InputError
from pipeline.models.folders import check_folder
from pipeline.models.tensors import TensorFolder
from pipeline.settings import Layout, Model
from pipeline.settings.config_json import read_config, shape_of

import torch  # isort: skip


def make(variant: Variant, folder: Path) -> None:
    """The folder, its biases and norms perturbed so that one that is ignored shows."""
    import transformers

    config = hf_model(tiny_model(variant.family)).config.to_dict() | variant.made_with
    if "num_experts" in variant.made_with:
        config.pop("num_local_experts", None)
    torch.manual_seed(0)
    name = {"qwen2": "Qwen2", "qwen3": "Qwen3", "llama": "Llama", "qwen3_moe": "Qwen3Moe"}[variant.family]
    if "layer_types" not in variant.made_with:
        config.pop("layer_types", None)  # it follows from the other keys
    model = getattr(transformers, f"{name}ForCausalLM")(getattr(transformers, f"{name}Config")(**config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(str(folder))
    content = json.loads((folder / "config.json").read_text()) | variant.written
    (folder / "config.json").write_text(json.dumps(content))


def outcome(folder: Path, model: Model) -> dict:
    """The largest difference of the logits, or the refusal."""
    try:
        check_folder(folder, model)
    except InputError as error:
        return {"refused": str(error)}
    model = model.model_copy(update={"vocab_size": read_config(folder)["vocab_size"]})
    chunks = build_chunks(model, Layout())
    load_hf(chunks, model, TensorFolder(folder).read)
    ids = torch.randint(0, model.vocab_size, (2, 24), generator=torch.Generator().manual_seed(1))
    ids = ids[:, : model.max_position_embeddings]  # the actor never sees a longer one
    found = logits_of(chunks, ids)[..., : model.vocab_size]
    return {"difference": difference(found, published_logits(folder, ids, "fp32")).largest}


def derived(folder: Path) -> Model | dict:
    try:
        return Model(**shape_of(read_config(folder), str(folder)), dtype="fp32", parameters=1)
    except InputError as error:
        return {"refused": str(error)}


def main() -> None:
    root = Path(sys.argv[1])
    parallel.initialize(Layout(), seed=0)
    results: dict[str, dict] = {}
    for variant in VARIANTS:
        folder = root / "folder"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            make(variant, folder)
        except Exception as error:  # such a folder cannot exist
            results[variant.id] = {"impossible": repr(error)}
            continue
        own = derived(folder)
        results[variant.id] = {
            "preset": outcome(folder, tiny_model(variant.family)),
            "derived": own if isinstance(own, dict) else outcome(folder, own),
        }
    (root / "results.json").write_text(json.dumps(results))
    parallel.finish()


if __name__ == "__main__":
    main()
