"""Run by test_weights.py on real ranks: every family through load, logits, export and a resharding checkpoint."""

import sys
from pathlib import Path

import te_modules
from tiny_models import FAMILIES, hf_model, hf_tensors, tiny_model

from megatron_patches import parallel
from megatron_patches.model import checkpoint, specs
from megatron_patches.model.attention import SdpaCoreAttention
from megatron_patches.model.policy_model import build_chunks, transformer_config
from megatron_patches.model.weights import export_tensors, load_hf
from pipeline.settings import Layout, Rl

import torch  # isort: skip
import torch.distributed as dist  # isort: skip


def logits_of(chunks, ids: torch.Tensor) -> torch.Tensor:
    positions = torch.arange(ids.shape[1])[None].expand_as(ids)
    with torch.no_grad():
        return chunks[0].eval()(ids, positions, None, runtime_gather_output=True)


def check(family: str, layouts: list, folder: Path) -> None:
    name, _, tying = family.partition("-")
    model = tiny_model(name, **({"tie_word_embeddings": tying == "tied"} if tying else {}))
    hf = hf_model(model)
    published = hf_tensors(hf)
    ids = torch.randint(0, model.vocab_size, (3, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = hf(ids).logits
    for number, layout in enumerate(layouts):
        parallel.initialize(layout, seed=0)
        chunks = build_chunks(model, layout)
        load_hf(chunks, model, published.__getitem__)
        if layout.pp == 1:
            found = logits_of(chunks, ids)[..., : model.vocab_size]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
        exported = {name: tensor.clone() for name, tensor in export_tensors(chunks, model)}
        assert exported.keys() == published.keys()
        for name, tensor in exported.items():
            assert torch.equal(tensor, published[name]), f"{family} {layout}: {name}"
        checkpoint.save(folder / family, number, chunks, model, common={"number": number})
        # Read back what the layout before this one wrote: a checkpoint belongs to no layout.
        other = build_chunks(model, layout)
        common = checkpoint.load(folder / family, max(number - 1, 0), other, model)
        assert common == {"number": max(number - 1, 0)}
        again = dict(export_tensors(other, model))
        assert all(torch.equal(again[name], published[name]) for name in published)


def check_backends(family: str, layout, folder: Path, rl=None) -> None:
    """Local layers and Transformer Engine's: the same logits, names and checkpoints, whichever wrote and whichever reads. `rl`:
    levers of the latter."""
    local = tiny_model(family, backend="local")
    te = local.model_copy(update={"backend": "te"})
    hf = hf_model(local)
    published = hf_tensors(hf)
    ids = torch.randint(0, local.vocab_size, (3, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = hf(ids).logits
    parallel.initialize(layout, seed=0)
    for number, (writer, reader) in enumerate(((local, te), (te, local))):
        chunks = build_chunks(writer, layout, rl if writer is te else None)
        names = {name for name, _ in chunks[0].named_parameters()}
        assert any("linear_qkv.layer_norm_weight" in name for name in names) == (writer is te)
        load_hf(chunks, writer, published.__getitem__)
        torch.testing.assert_close(logits_of(chunks, ids)[..., : local.vocab_size], expected, rtol=0, atol=1e-5)
        checkpoint.save(folder / f"{family}-backends", number, chunks, writer, common={})
        other = build_chunks(reader, layout, rl if reader is te else None)
        with torch.no_grad():
            for parameter in other[0].parameters():
                parameter.fill_(7.0)  # what is not read shows
        checkpoint.load(folder / f"{family}-backends", number, other, reader)
        again = dict(export_tensors(other, reader))
        assert again.keys() == published.keys()
        wrong = [name for name in published if not torch.equal(again[name], published[name])]
        assert not wrong, f"{family} {layout}, written by {writer.backend}: {wrong}"


def check_attention() -> None:
    """Transformer Engine's layers keep its attention only where that is chosen."""
    config = transformer_config(tiny_model("qwen3"), Layout())
    for attention, expected in (("torch", SdpaCoreAttention), ("te", te_modules.Provider().core_attention())):
        layer = specs.block_spec(config, "te", attention=attention).layer_specs[0]
        assert layer.submodules.self_attention.submodules.core_attention is expected


def main() -> None:
    folder, families = Path(sys.argv[1]), sys.argv[2].split(",")
    parallel.initialize(Layout(), seed=0)
    size = dist.get_world_size()
    layouts = [Layout()] if size == 1 else [Layout(tp=2), Layout(tp=2, sp=True), Layout(pp=2), Layout()]
    for family in families:
        extra = [Layout(ep=2)] if size == 2 and FAMILIES[family.partition("-")[0]].get("experts") else []
        check(family, layouts + extra, folder)
    te_modules.install()
    check_attention()
    layout = Layout() if size == 1 else Layout(tp=2, sp=True)
    for family in ("qwen2", "qwen3", "qwen3_moe"):
        check_backends(family, layout, folder)
    grouped = Rl(grouped_experts=True)
    for other in (layout, Layout(ep=2)) if size == 2 else (layout,):
        check_backends("qwen3_moe", other, folder / f"grouped{other.ep}", grouped)
    parallel.finish()


if __name__ == "__main__":
    main()
