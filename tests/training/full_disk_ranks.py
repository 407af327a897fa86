"""Run by test_checkpoints.py on two real ranks: the file of the second one does not fit, and both say so."""

import resource
import sys
from pathlib import Path

from tiny_models import tiny_model

from megatron_patches import parallel
from megatron_patches.model import checkpoint
from megatron_patches.training.actor import Actor
from pipeline.settings import Layout, Rl
from pipeline.stage import explain

import torch  # isort: skip
import torch.distributed as dist  # isort: skip

MODEL = tiny_model("llama")


def check(root: Path, actor: Actor, background: bool) -> None:
    saver = checkpoint.Saver(root, MODEL, keep=1, background=background)

    def save(iteration: int) -> None:
        saver.save(iteration, actor.chunks, optimizer=actor.optimizer, common={})
        saver.finish()

    save(1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if dist.get_rank() == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        save(2)
    except Exception as error:
        code, said = explain(error)
    else:
        raise AssertionError("a file of more than 4 KiB was written")
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 3, said
    assert f" at {root}/iter_0000002/__1_0.distcp" in said, said
    assert checkpoint.newest_whole(root) == (1, [])
    dist.barrier()
    assert not list(root.glob(".iter_*"))
    save(2)
    assert checkpoint.newest_whole(root) == (2, [])


def main() -> None:
    torch.set_num_threads(1)
    layout = Layout(tp=2)
    parallel.initialize(layout, seed=0)
    actor = Actor(MODEL, layout, Rl(), 1.0)
    for background in (False, True):
        check(Path(sys.argv[1]) / str(background), actor, background)
    parallel.finish()


if __name__ == "__main__":
    main()
