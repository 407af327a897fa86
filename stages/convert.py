"""Hugging Face safetensors -> Megatron distributed checkpoint, at the layout of the actor (and loadable at any other).

Before anything is saved, the logits of a few tokens are compared with transformers', if its copy fits in memory.
"""

from math import prod
from pathlib import Path

import torch.distributed as dist

from megatron_patches import session
from megatron_patches.model import checkpoint
from megatron_patches.model.policy_model import build_chunks
from megatron_patches.model.weights import agreement, load_hf
from pipeline.common.errors import InputError
from pipeline.data.tokenizer import load as load_tokenizer
from pipeline.models.folders import check_vocabulary, start_folder
from pipeline.models.tensors import TensorFolder
from pipeline.settings import Settings
from pipeline.settings.published import tensor_shapes
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
    logits = compare_logits(run, chunks, settings, folder)
    if run.is_main:
        checkpoint.clear_unfinished(run.folder())
    try:
        checkpoint.save(run.folder(), 0, chunks, settings.model, common={"step": 0, "source": str(folder)})
    except checkpoint.NonFiniteError as error:
        raise InputError(f"{folder} holds weights that are NaN or infinite, so it is not converted. {error}") from error

    run.log(f"{folder} -> {checkpoint.iteration_folder(run.folder(), 0)} ({len(tensors.names())} tensors)")
    return {"source": str(folder), "iteration": 0, "logits": logits}


def compare_logits(run: StageRun, chunks: list, settings: Settings, folder: Path) -> dict[str, float] | str | None:
    """Compares with transformers, prints the result and returns it: the differences, or why they were not measured.

    Raises InputError on every rank where the difference is more than rounding.
    """
    reasons: list = [None]
    if run.is_main:
        parameters = sum(prod(shape) for shape in tensor_shapes(settings.model).values())
        reasons = [agreement.why_not(settings.model, settings.layout, parameters)]
    dist.broadcast_object_list(reasons)  # free memory differs between nodes, and all ranks must decide alike
    if reasons[0] is not None:
        run.log(f"logits not compared with transformers: {reasons[0]}")
        return reasons[0]
    found = [agreement.compare(chunks, settings.model, folder)]
    dist.broadcast_object_list(found)
    assert found[0] is not None
    agreement.check(found[0], settings.model, folder)
    run.log(
        f"logits of {agreement.TOKENS} tokens compared with transformers: largest difference {found[0].largest:.2g}, "
        f"{found[0].share:.1g} of their size"
    )
    return {"largest": found[0].largest, "share": found[0].share}


if __name__ == "__main__":
    run_stage(main)
