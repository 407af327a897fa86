"""What an asynchronous save costs, as a share of a step of `model=tiny`. By hand, on a quiet machine:

    .venv/bin/python tests/stages/save_every_step.py <folder> [runs] [steps]

Two runs of the same steps differ by more than a save costs, so the cost is taken within a run, which saves after every fourth
step. A save ends within the two steps after it, so those are compared with the two that follow: the difference is one save. The
folder keeps the prepared run for the next call.
"""

import shutil
import subprocess
import sys
from pathlib import Path
from statistics import mean, median, stdev

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT)]

from pipeline.common.files import read_jsonl  # noqa: E402

EVERY = 4


def stage(name: str, run: str, folder: Path, *words: str) -> None:
    subprocess.run(
        ["bash", "run.sh", f"stage={name}", "model=tiny", f"name={run}", f"runs_dir={folder}", *words],
        cwd=ROOT, check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def costs(folder: Path, steps: int) -> list[tuple[float, float]]:
    """Of each save of a new run: its seconds, and the seconds of a step without one."""
    shutil.rmtree(folder / "cost", ignore_errors=True)
    shutil.copytree(folder / "base", folder / "cost")
    stage("rl", "cost", folder, "rl.async_save=true", f"rl.save_every={EVERY}", f"rl.steps={steps}")
    seconds = [row["seconds/step"] for row in read_jsonl(folder / "cost" / "metrics.jsonl")]
    found = []
    for after in range(EVERY, steps - EVERY + 1, EVERY):  # the row of the step after a save holds its first part
        first, second, third, fourth = seconds[after : after + EVERY]
        found.append((first + second - third - fourth, (third + fourth) / 2))
    return found


def main(folder: str, runs: str = "3", steps: str = "40") -> None:
    root = Path(folder).resolve()
    if not (root / "base" / "convert").is_dir():
        for name in ("preprocess", "sft", "convert"):
            stage(name, "base", root)
    shares = []
    for run in range(1, int(runs) + 1):
        found = costs(root, int(steps))
        step = median(other for _, other in found)
        shares += [save / step for save, _ in found]
        print(f"run {run}: a step {step:.3f} s, a save {median(save for save, _ in found):.3f} s", flush=True)
    error = stdev(shares) / len(shares) ** 0.5
    print(f"{len(shares)} saves: median {median(shares):.1%} of a step, mean {mean(shares):.1%} +- {error:.1%}")


if __name__ == "__main__":
    main(*sys.argv[1:])
