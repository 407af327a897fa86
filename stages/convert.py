"""Hugging Face safetensors -> Megatron distributed checkpoint, at the layout of the actor (and loadable at any other)."""

from megatron_patches import checkpoint, session
from megatron_patches.policy_model import build_chunks
from megatron_patches.weights import load_hf
from pipeline.hf import start_folder
from pipeline.stage import StageRun, run_stage
from pipeline.tensors import TensorFolder


def main(run: StageRun) -> dict:
    folder = start_folder(run)
    tensors = TensorFolder(folder)
    session.join(run)
    settings = session.with_vocabulary(run.settings, folder / "config.json")
    if run.is_main:
        session.keep_source(run, folder)

    chunks = build_chunks(settings.model, settings.layout)
    load_hf(chunks, settings.model, tensors.read)
    checkpoint.save(run.folder(), 0, chunks, settings.model, common={"step": 0, "source": str(folder)})

    run.log(f"{folder} -> {checkpoint.iteration_folder(run.folder(), 0)} ({len(tensors.names())} tensors)")
    return {"source": str(folder), "iteration": 0}


if __name__ == "__main__":
    run_stage(main)
