"""What the sums of a checkpoint cost, by turns with and without them. By hand, on a quiet machine:

    PYTHONPATH=.:tests/lib .venv/bin/python tests/training/save_cost.py <folder> <layers> <hidden> [repeats]

4 layers of 512 are 15 million parameters, 8 of 768 are 60 million. One process, saves that wait.
"""

import sys
import time
from pathlib import Path
from statistics import median

from megatron_patches import parallel
from megatron_patches.model import checkpoint_saving
from megatron_patches.training.actor import Actor
from pipeline.settings import Layout, Model, Rl


def model_of(layers: int, hidden: int) -> Model:
    return Model(
        family="llama", num_layers=layers, hidden_size=hidden, ffn_hidden_size=3 * hidden, num_attention_heads=8,
        num_query_groups=8, head_dim=hidden // 8, vocab_size=2048, max_position_embeddings=256, dtype="fp32", parameters=1,
    )  # fmt: skip


def synced(path: Path) -> tuple[int, int]:
    """A file that is brought to the disk, and not summed."""
    with open(path, "rb+") as file:
        checkpoint_saving.os.fsync(file.fileno())
    return 0, 0


def main(folder: str, layers: str, hidden: str, repeats: str = "10") -> None:
    parallel.initialize(Layout(), seed=0)
    model = model_of(int(layers), int(hidden))
    actor = Actor(model, Layout(), Rl(), 1.0)
    saver = checkpoint_saving.Saver(Path(folder), model, keep=1)
    numbers = sum(p.numel() for chunk in actor.chunks for p in chunk.parameters())
    parts = {"with": checkpoint_saving._synced_sum, "without": synced}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in parts}
    for turn in range(2 * int(repeats) + 2):
        name = list(parts)[turn % 2]
        checkpoint_saving._synced_sum = parts[name]
        wall, cpu = time.perf_counter(), time.process_time()
        saver.save(turn, actor.chunks, optimizer=actor.optimizer, common={})
        if turn > 1:
            found[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    print(
        f"{numbers:,} parameters, {repeats} saves each, milliseconds: wall fastest, median; processor fastest, median"
    )
    for name, pairs in found.items():
        walls, cpus = zip(*pairs, strict=True)
        print(
            f"{name:8}",
            *(f"{1000 * value:8.1f}" for column in (walls, cpus) for value in (min(column), median(column))),
        )
    parallel.finish()


if __name__ == "__main__":
    main(*sys.argv[1:])
