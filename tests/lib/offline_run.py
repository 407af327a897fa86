"""A small run up to stage=rollout, made in one process; and the stage on it, killed as often as wanted.

python tests/lib/offline_run.py FOLDER PROBLEMS             # prepare FOLDER/whole, run the stage there undisturbed
python tests/lib/offline_run.py FOLDER PROBLEMS KILLS SEED  # then once more with KILLS kills at random moments
"""

import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import yaml
from tiny_models import hf_model, hf_tensors, tiny_model

from pipeline.artifacts import write_jsonl
from pipeline.settings import Data, Layout, Rollout, Settings, Verify

ROOT = Path(__file__).resolve().parents[2]


def settings_of(folder: Path, vocabulary: int, name: str) -> Settings:
    names = {f"{kind}_name": "test" for kind in ("model", "algo", "data", "cluster")}
    return Settings(
        stage="rollout",
        name=name,
        runs_dir=str(folder),
        model=tiny_model("qwen3", vocab_size=vocabulary),
        layout=Layout(),
        data=Data(template="bare"),
        rollout=Rollout(max_prompt_tokens=32, max_new_tokens=24, offline_group_size=4, offline_shard_prompts=5),
        verify=Verify(workers=1),
        **names,
    )


def write_config(folder: Path, settings: Settings) -> Path:
    path = folder / f"{settings.name}.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump()))
    return path


def prepare(folder: Path, problems: int) -> Path:
    """Problems, a tokenizer, and a base checkpoint of random weights; returns the config of the run `whole`."""
    import torch

    from megatron_patches import checkpoint, parallel
    from megatron_patches.policy_model import build_chunks
    from megatron_patches.weights import load_hf
    from pipeline.data.tokenizer import load, train

    root = folder / "whole"
    draw = random.Random(5)
    terms = [[draw.randint(0, 9) for _ in range(draw.randint(2, 7))] for _ in range(problems)]
    rows = [
        {"id": f"a{i}", "problem": "+".join(map(str, t)) + "=\n", "answer": str(sum(t)), "source": "test"}
        for i, t in enumerate(terms)
    ]
    write_jsonl(root / "preprocess" / "train.jsonl", rows)
    (root / "convert" / "hf").mkdir(parents=True)
    train([row["problem"] + "\\boxed{0123456789}" for row in rows], root / "convert" / "hf", 64)
    vocabulary = len(load(root / "convert" / "hf"))
    settings = settings_of(folder, vocabulary, "whole")
    hf = hf_model(settings.model)
    hf.config.save_pretrained(root / "convert" / "hf")
    torch.manual_seed(0)
    parallel.initialize(settings.layout, 0)
    chunks = build_chunks(settings.model, settings.layout)
    load_hf(chunks, settings.model, hf_tensors(hf).__getitem__)
    checkpoint.save(root / "convert", 0, chunks, settings.model, common={"step": 0})
    return write_config(folder, settings)


def copy_of(folder: Path, name: str) -> Path:
    """The prepared run under another name, before its rollouts; returns its config."""
    for part in ("preprocess", "convert"):
        shutil.copytree(folder / "whole" / part, folder / name / part)
    text = yaml.safe_load((folder / "whole.yaml").read_text())
    return write_config(folder, Settings.model_validate(text | {"name": name}))


def environment() -> dict[str, str]:
    """A world of one rank."""
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "lib"), os.environ.get("PYTHONPATH", "")])
    return os.environ | alone | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "PYTHONPATH": path}


def start(config: Path) -> subprocess.Popen:
    """The stage in a process group of its own."""
    command = [sys.executable, "-m", "stages.rollout", str(config)]
    return subprocess.Popen(command, cwd=ROOT, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL)


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to the whole group, as a machine that goes away would."""
    os.killpg(process.pid, 9)
    process.wait()


def outputs(root: Path) -> dict[str, bytes]:
    """Everything that the stage leaves behind, by name."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob("rollout/**/*.jsonl"))}


def run_with_kills(folder: Path, kills: int, seed: int) -> None:
    config = copy_of(folder, "killed")
    draw, moments, done = random.Random(seed), [], 0
    begun = time.monotonic()
    assert start(copy_of(folder, "timed")).wait() == 0
    seconds = time.monotonic() - begun
    while done < kills:
        process = start(config)
        moment = draw.uniform(0.2, 1.0) * seconds
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            kill(process)
            done += 1
            moments.append(f"{moment:.1f} s: {len(list((folder / 'killed').glob('rollout/shards/*.jsonl')))} shards")
        else:  # it ended before the kill: begin again, so that every kill meets work under way
            assert outputs(folder / "killed") == outputs(folder / "whole")
            shutil.rmtree(folder / "killed" / "rollout")
    assert start(config).wait() == 0
    same = outputs(folder / "killed") == outputs(folder / "whole")
    print(f"{kills} kills ({'; '.join(moments)}): {len(outputs(folder / 'killed'))} files, same bytes: {same}")
    assert same


def main() -> None:
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    config = prepare(folder, int(sys.argv[2]))
    assert start(config).wait() == 0
    if len(sys.argv) > 3:
        run_with_kills(folder, int(sys.argv[3]), int(sys.argv[4]))


if __name__ == "__main__":
    main()
