"""Hugging Face safetensors -> Megatron distributed checkpoint, at the layout of the actor (and loadable at any other)."""

import torch.distributed as dist

from megatron_patches import session
from megatron_patches.model import checkpoint
from megatron_patches.model.policy_model import build_chunks
from megatron_patches.model.weights import load_hf
from pipeline.common.errors import InputError
from pipeline.data.tokenizer import load as load_tokenizer
from pipeline.models.folders import check_vocabulary, start_folder
from pipeline.models.tensors import TensorFolder
from pipeline.stage import StageRun, run_stage


def main(run: StageRun) -> dict:
    session.join(run)
    folder = start_folder(run)
    dist.barrier()
    tensors = TensorFolder(folder)
    settings = session.with_vocabulary(run.settings, folder / "config.json")
    if run.is_main:
        check_vocabulary(folder, load_tokenizer(folder))
        session.keep_source(run, folder)

    chunks = build_chunks(settings.model, settings.layout)
    load_hf(chunks, settings.model, tensors.read)
    if run.is_main:
        checkpoint.clear_unfinished(run.folder())
    try:
        checkpoint.save(run.folder(), 0, chunks, settings.model, common={"step": 0, "source": str(folder)})
    except checkpoint.NonFiniteError as error:
        raise InputError(f"{folder} holds weights that are NaN or infinite, so it is not converted. {error}") from error

    run.log(f"{folder} -> {checkpoint.iteration_folder(run.folder(), 0)} ({len(tensors.names())} tensors)")
    return {"source": str(folder), "iteration": 0}


if __name__ == "__main__":
    run_stage(main)
