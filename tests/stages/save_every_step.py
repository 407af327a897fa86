"""What an asynchronous save after every step costs, by turns with no save at all. By hand, on a quiet machine:

    .venv/bin/python tests/stages/save_every_step.py <folder> [repeats] [steps]

The folder is made, and kept for the next call. Two ranks, the tiny preset's stages at the size of tests/lib/house.py. Of each
run: the median of seconds/step without the first two steps and the last, and the processor seconds of both ranks a step.
"""

import shutil
import sys
import uuid
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lib")]

from house import House, ranks_of, steps_done, until  # noqa: E402
from trials import prepared_house  # noqa: E402

from pipeline.common.files import read_jsonl  # noqa: E402

KINDS = {"async, every step": ["rl.async_save=true", "rl.save_every=1"], "none": ["rl.save_every=1000"]}
SKIPPED = 2


def measure(house: House, words: list[str], steps: int) -> tuple[float, float]:
    """Median seconds of a step, and processor seconds of both ranks a step."""
    name = f"cost-{uuid.uuid4().hex[:6]}"
    root = house.copy(name, "preprocess", "convert")
    metrics = root / "metrics.jsonl"
    process = house.start("rl", f"rl.steps={steps}", *words, name=name)
    spent = []
    for step in (SKIPPED, steps - 1):
        until(lambda step=step: steps_done(metrics) >= step, process)
        spent.append(sum(sum(rank.cpu_times()[:2]) for rank in ranks_of(process, "rl")))
    _, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    seconds = [row["seconds/step"] for row in read_jsonl(metrics)][SKIPPED:-1]
    shutil.rmtree(root)
    return median(seconds), (spent[1] - spent[0]) / (steps - 1 - SKIPPED)


def main(folder: str, repeats: str = "5", steps: str = "40") -> None:
    house = prepared_house(Path(folder).resolve())
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in KINDS}
    try:
        for _ in range(int(repeats)):
            for name, words in KINDS.items():
                found[name].append(measure(house, words, int(steps)))
                print(f"{name}: {found[name][-1][0]:.3f} s, {found[name][-1][1]:.3f} processor s a step", flush=True)
    finally:
        house.close()
    with_saves, without = ([median(column) for column in zip(*pairs, strict=True)] for pairs in found.values())
    for what, one, other in zip(("seconds", "processor seconds"), with_saves, without, strict=True):
        print(f"{what} a step: {one:.3f} with saves, {other:.3f} without: {100 * (one / other - 1):+.1f}%")


if __name__ == "__main__":
    main(*sys.argv[1:])
