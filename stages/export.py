"""Megatron distributed checkpoint -> Hugging Face folder that transformers and vLLM load as it is."""

import json
from pathlib import Path

import torch

from megatron_patches import session
from megatron_patches.model import checkpoint
from megatron_patches.model.policy_model import build_chunks
from megatron_patches.model.weights import export_tensors
from pipeline.common.files import whole_folder, write_json
from pipeline.models.tensors import write_folder
from pipeline.settings import Settings
from pipeline.stage import StageRun, run_stage


def main(run: StageRun) -> dict:
    settings = session.start(run)
    root, iteration = session.checkpoint_of(run, settings.export.checkpoint)
    chunks = build_chunks(settings.model, settings.layout)
    checkpoint.load(root, iteration, chunks, settings.model)
    folder = run.folder() / "hf"
    files = write_model(run, settings, chunks, folder)
    run.log(f"{checkpoint.iteration_folder(root, iteration)} -> {folder} ({', '.join(files)})")
    return {"checkpoint": str(checkpoint.iteration_folder(root, iteration)), "folder": str(folder)}


def write_model(run: StageRun, settings: Settings, chunks: list, folder: Path) -> list[str]:
    """Writes the weights of `chunks` as a Hugging Face folder, which appears whole or not at all (a collective). Returns the
    names of its weight files on rank 0."""
    wanted = settings.model.dtype if settings.export.dtype == "model" else settings.export.dtype
    dtype = torch.bfloat16 if wanted == "bf16" else torch.float32
    tensors = ((name, tensor.to(dtype)) for name, tensor in export_tensors(chunks, settings.model))
    if not run.is_main:
        for _ in tensors:  # export_tensors is collective: every rank walks through it
            pass
        return []
    with whole_folder(folder) as temporary:
        files = write_folder(temporary, tensors, sources=session.source_folder(run))
        config = json.loads((temporary / "config.json").read_text())
        config.pop("torch_dtype", None)
        # A warm-up turns the cache off for its own sake; left off, generation from the export is many times slower.
        write_json(temporary / "config.json", config | {"dtype": str(dtype).removeprefix("torch."), "use_cache": True})
    return files


if __name__ == "__main__":
    run_stage(main)
