"""Fills the disk of a small run at each of its saves, and continues the run when there is space again.

    .venv/bin/python tests/stages/full_disk.py <folder>                    # as root: it mounts a small tmpfs for each run
    .venv/bin/python tests/stages/full_disk.py <folder> "save: latest"     # one of the places

The folder is made, and kept for the next call. A rank waits at a file operation (tests/lib/hold.py) while the run's folder, a
tmpfs, is filled to its last byte. The run must end by itself with exit code 3, and one line must name a place in that folder;
checkpoints that were whole must be whole, and nothing half written may stay. When there is space again the same
command must end like an undisturbed run, to the bit. Exit code 1 if one did not.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "lib")]

from house import House  # noqa: E402
from trials import Trial, prepared_house  # noqa: E402

from megatron_patches.model.checkpoint_folder import damage, iteration_folder, iterations  # noqa: E402
from pipeline.common.tables import aligned  # noqa: E402

MEBIBYTES = 32
BALLAST = "ballast"
RL = ("rl.steps=4", "rl.save_every=1", "rl.keep_checkpoints=2")
EXPORTED = (*RL, "rl.export_every=2")
SFT = ("sft.save_every=4",)
TRAINED = "trained"
"""Stands for a copy of the whole undisturbed training."""


@dataclass(frozen=True)
class Place:
    """Where the disk fills."""

    name: str
    at: str
    skip: int = 0
    rank: int = 0
    stage: str = "rl"
    words: tuple[str, ...] = RL
    before: tuple[str, ...] = ("preprocess", "convert")

    @property
    def straight(self) -> str:
        """The undisturbed run to compare with. How it saves changes no result."""
        kinds = {EXPORTED: "full-exported", RL: "full-straight"}
        return kinds.get(self.words[: len(self.words) - ("rl.async_save=true" in self.words)], f"full-{self.stage}")


LATER = {"before": (TRAINED,), "words": ("rl.steps=4",)}
PLACES = (
    Place("save: a file", r"open iter_0000003\.writing/.*\.distcp$"),
    Place("save: a file of rank 1", r"open iter_0000003\.writing/.*\.distcp$", rank=1),
    Place("save: the sums", r"open iter_0000003\.writing/\.checksums\.json"),
    Place("save: latest", r"os.rename iter_0000003\.writing$"),
    Place("save: the first latest", r"os.rename iter_0000001\.writing$"),
    Place(
        "async: a file of rank 1", r"open iter_0000003\.writing/.*\.distcp$", rank=1, words=(*RL, "rl.async_save=true")
    ),
    Place("async: the sums", r"open iter_0000003\.writing/\.checksums\.json", words=(*RL, "rl.async_save=true")),
    Place("rl.export_every: the folder", r"os.mkdir \.step_\d+\.writing$", words=EXPORTED),
    Place("rl.export_every: the weights", r"open \.step_\d+\.writing/tokenizer_config\.json$", words=EXPORTED),
    Place("kept samples", r"open samples/\.step_0000003"),
    Place("metrics.jsonl", r"open metrics\.jsonl$", skip=2),
    Place("samples.jsonl", r"open samples\.jsonl$", skip=2),
    Place("TensorBoard", r"open events\.out\.tfevents"),
    Place("sft: its save", r"os.mkdir /step_0000008$", 0, 0, "sft", SFT, ("preprocess",)),
    Place("sft: its save, rank 1", r"os.mkdir /step_0000008$", 0, 1, "sft", SFT, ("preprocess",)),
    Place("sft: latest", r"open /\.latest\.", 1, 0, "sft", SFT, ("preprocess",)),
    Place("sft: metrics.jsonl", r"open sft/metrics\.jsonl$", 6, 0, "sft", SFT, ("preprocess",)),
    Place("sft: the model", r"os.mkdir sft/\.hf\.writing$", 0, 0, "sft", SFT, ("preprocess",)),
    Place("sft: the tokenizer", r"open sft/\.hf\.writing/tokenizer\.json$", 0, 0, "sft", SFT, ("preprocess",)),
    Place("preprocess", r"open /\.train\.jsonl", 0, 0, "preprocess", (), ()),
    Place("convert", r"open \.writing/.*\.distcp$", 0, 1, "convert", (), ("preprocess", "sft")),
    Place("export", r"os.mkdir \.hf\.writing$", stage="export", **LATER),
    Place("evaluate", r"open evaluate/.*\.jsonl", stage="evaluate", **LATER),
    Place("replay", r"open replay/\.step_", stage="replay", **LATER),
    Place("report", r"open /\.report\.html", stage="report", **LATER),
)


def undisturbed(house: House, place: Place) -> Path:
    """The run that nothing disturbed; made if it is not there."""
    root = house.root(place.straight)
    if not root.exists():
        if place.before == (TRAINED,):
            shutil.copytree(undisturbed(house, PLACES[0]), root)
        else:
            house.copy(place.straight, *place.before)
        result = house.run(place.stage, *place.words, name=place.straight)
        assert result.code == 0, result.err
    return root


def small_disk(folder: Path) -> bool:
    """Mounts a small tmpfs. False where this is not possible."""
    folder.mkdir(parents=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={MEBIBYTES}m", "tmpfs", str(folder)]
    with suppress(FileNotFoundError):
        if subprocess.run(words, stderr=subprocess.DEVNULL).returncode == 0:
            return True
    folder.rmdir()
    return False


def unmount(folder: Path) -> None:
    """Waits until the last process has closed its files."""
    for _ in range(20):
        if subprocess.run(["umount", str(folder)], stderr=subprocess.DEVNULL).returncode == 0:
            return
        time.sleep(0.5)


def fill(folder: Path) -> None:
    """Until nothing fits any more."""
    with open(folder / BALLAST, "wb", buffering=0) as file, suppress(OSError):
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while file.write(bytes(size)) == size:
                    pass


def broken(root: Path) -> list[str]:
    """Checkpoints that are not whole, and what is half written."""
    folder = root / "checkpoints"
    found = []
    for number in iterations(folder) if folder.is_dir() else []:
        if (text := damage(iteration_folder(folder, number))) is not None:
            found.append(f"iteration {number}: {text}")
    return found + [f"half written: {path}" for path in root.rglob(".*") if path.name.endswith((".writing", ".tmp"))]


def filled(house: House, place: Place) -> tuple[str, list[str]]:
    """Fills the disk there and continues. Returns what the run said, and what was not as it must be."""
    straight, name = undisturbed(house, place), f"full-{uuid.uuid4().hex[:6]}"
    root = house.root(name)
    if not small_disk(root):
        raise SystemExit("A tmpfs cannot be mounted here (root only), so no disk can be filled.")
    try:
        stages = () if place.before == (TRAINED,) else place.before
        if not stages and place.before:
            shutil.copytree(house.root("full-straight"), root, dirs_exist_ok=True)
        trial = Trial(house, name, place.stage, list(place.words), *stages)
        start = trial.start(at=place.at, rank=place.rank, skip=place.skip)
        if not trial.reach(start):
            return start.process.communicate()[1], ["the run ended before that place"]
        fill(root)
        start.mark.unlink()
        code, _, err = trial.end(start, place.name)
        wrong, text = list(trial.wrong), err.strip()
        wrong += [f"exit code {code}, not 3"] if code != 3 else []
        wrong += [f"{len(text.splitlines())} lines"] if len(text.splitlines()) != 1 else []
        wrong += [] if f"The disk is full at {root}/" in text.replace(f"{ROOT}/", "") else ["the place is not named"]
        # What a thread was writing when its rank ended is cleared by the next start.
        wrong += [text for text in broken(root) if "rl.async_save=true" not in place.words or "half" not in text]
        (root / BALLAST).unlink()
        trial.wrong.clear()
        trial.finish(straight)
        return err, wrong + trial.wrong
    finally:
        unmount(root)
        shutil.rmtree(root, ignore_errors=True)


def main(folder: str, *names: str) -> int:
    house = prepared_house(Path(folder).resolve())
    table, failed = [], 0
    try:
        for place in [place for place in PLACES if not names or place.name in names]:
            said, wrong = filled(house, place)
            print(f"--- {place.name}\n{said.strip()}", *wrong, sep="\n    ", flush=True)
            table.append((place.name, "; ".join(wrong)[:200] or "as it must"))
            failed += bool(wrong)
    finally:
        house.close()
    print("\n".join(aligned(("the disk filled at", "ended"), table)))
    return 1 if failed else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    sys.exit(main(*sys.argv[1:]))
