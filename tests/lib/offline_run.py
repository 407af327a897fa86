"""A small run up to stage=rollout, made in one process, and the stage on it, killed as often as wanted.

python tests/lib/offline_run.py FOLDER PROBLEMS                       # prepare the run FOLDER/base, and no more
python tests/lib/offline_run.py FOLDER PROBLEMS KILLS SEED [TP] [DP]  # then the stage on TP x DP ranks, once
undisturbed
                                                                      # and once with KILLS kills at random moments

Every other kill comes at any moment from the start on; the rest come after the first shard of that start. Every fourth
kills one rank, whose world has to end by itself; the others kill all processes.
"""

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import yaml
from cli import ROOT, end, environment
from house import assert_gone, family, kill_all, ranks_of
from tiny_models import hf_model, hf_tensors, tiny_model

from pipeline.common.files import write_jsonl
from pipeline.run.catalog import STAGES, Job
from pipeline.run.launch import command, config_path
from pipeline.settings import Cluster, Data, Layout, Rollout, Settings, Verify

BASE = "base"
"""The name of the prepared run, which gets no rollouts."""


def settings_of(folder: Path, vocabulary: int, name: str) -> Settings:
    names = {f"{kind}_name": "test" for kind in ("model", "algo", "data", "cluster")}
    return Settings(
        stage="rollout",
        name=name,
        runs_dir=str(folder),
        model=tiny_model("qwen3", vocab_size=vocabulary),
        layout=Layout(),
        data=Data(template="bare"),
        cluster=Cluster(device="cpu", devices_per_node=1, threads_per_rank=1, timeout_minutes=2),
        rollout=Rollout(
            max_prompt_tokens=32, max_new_tokens=24, kv_memory_gib=0.1, offline_group_size=4, offline_shard_prompts=5
        ),
        verify=Verify(workers=1),
        **names,
    )


def write_config(settings: Settings) -> Path:
    path = config_path(Job(STAGES["rollout"], settings), Path(settings.runs_dir) / settings.name, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(settings.model_dump()))
    return path


def prepare(folder: Path, problems: int) -> None:
    """Makes the run `base`: problems, a tokenizer, and a base checkpoint of random weights."""
    import torch

    from megatron_patches import parallel
    from megatron_patches.model import checkpoint
    from megatron_patches.model.policy_model import build_chunks
    from megatron_patches.model.weights import load_hf
    from pipeline.data.tokenizer import load, train

    root = folder / BASE
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
    settings = settings_of(folder, vocabulary, BASE)
    hf = hf_model(settings.model)
    hf.config.save_pretrained(root / "convert" / "hf")
    torch.manual_seed(0)
    parallel.initialize(settings.layout, 0)
    chunks = build_chunks(settings.model, settings.layout)
    load_hf(chunks, settings.model, hf_tensors(hf).__getitem__)
    checkpoint.save(root / "convert", 0, chunks, settings.model, common={"step": 0})
    write_config(settings)


def prepare_apart(folder: Path, problems: int) -> None:
    """Runs `prepare` in another process, so that Megatron's process groups end with it."""
    words = [sys.executable, __file__, str(folder), str(problems)]
    path = f"{ROOT}:{ROOT / 'tests' / 'lib'}"
    subprocess.run(words, cwd=ROOT, env=environment(PYTHONPATH=path), check=True)


def copy_of(folder: Path, name: str, tp: int = 1, dp: int = 1) -> Settings:
    """Copies the prepared run to another name, for `dp` copies of `tp` ranks, and writes its config."""
    for part in ("preprocess", "convert"):
        shutil.copytree(folder / BASE / part, folder / name / part)
    text = yaml.safe_load((folder / BASE / "rollout" / "config.yaml").read_text())
    text["cluster"]["devices_per_node"] = tp * dp
    settings = Settings.model_validate(text | {"name": name, "layout": text["layout"] | {"tp": tp}})
    write_config(settings)
    return settings


def start(settings: Settings) -> "subprocess.Popen[str]":
    """Starts the stage's ranks, with the launcher that run.sh uses."""
    root = Path(settings.runs_dir) / settings.name
    launch = command(Job(STAGES["rollout"], settings), root, 0)
    return subprocess.Popen(
        launch.argv, cwd=ROOT, env=environment(**launch.env), text=True, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def run(settings: Settings) -> None:
    """Runs the stage to its end."""
    assert start(settings).wait(timeout=300) == 0, f"the stage failed in {settings.runs_dir}/{settings.name}"


def wait(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    """Waits until the condition holds or the process has ended."""
    while not condition() and process.poll() is None:
        time.sleep(0.002)


def kill_rank(process: "subprocess.Popen[str]", rank: psutil.Process) -> None:
    """Kills one rank; the rest has to end by itself, with an error, and leave no process."""
    everyone = family(process)
    rank.kill()
    assert process.wait(timeout=60) != 0
    assert_gone(everyone[1:])


def shards_of(settings: Settings) -> int:
    """Counts the shards."""
    return len(list((Path(settings.runs_dir) / settings.name / "rollout" / "shards").glob("*.jsonl")))


def outputs(settings: Settings) -> dict[str, bytes]:
    """Reads all output files of the stage, by name."""
    root = Path(settings.runs_dir) / settings.name
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.glob("rollout/**/*.jsonl"))}


def run_with_kills(whole: Settings, killed: Settings, first: float, seconds: float, kills: int, seed: int) -> None:
    """Kills the run `killed` the given number of times, and compares it with an undisturbed one, which takes `seconds`,
    and `first` seconds up to its first shard."""
    draw, done, at_work = random.Random(seed), 0, 0
    while done < kills:
        begun, before = time.monotonic(), shards_of(killed)
        process = start(killed)
        if done % 2:
            wait(lambda: shards_of(killed) > before, process)  # noqa: B023  within this turn of the loop
            pause = draw.uniform(0.0, seconds - first)
        else:
            pause = draw.uniform(0.0, seconds)
        try:
            code = process.wait(timeout=pause)
        except subprocess.TimeoutExpired:
            try:
                ranks = ranks_of(process, "rollout") if done % 4 == 3 else []
            except (psutil.NoSuchProcess, IndexError):  # it is about to start or to end
                ranks = []
            if ranks:
                kill_rank(process, draw.choice(ranks))
            else:
                kill_all(process)
            now, moment = shards_of(killed), time.monotonic() - begun
            print(f"{moment:5.1f} s  {'one rank' if ranks else 'all':<8}  {before} -> {now} shards", flush=True)
            done, at_work = done + 1, at_work + (now > before)
            continue
        # It ended before the kill: start again, so that every kill hits a running stage.
        assert code == 0
        assert outputs(killed) == outputs(whole)
        shutil.rmtree(Path(killed.runs_dir) / killed.name / "rollout" / "shards")
    run(killed)
    same = outputs(killed) == outputs(whole)
    print(f"{kills} kills, {at_work} of them after the first shard of their start; same bytes: {same}")
    assert same


def main() -> None:
    folder, problems, *rest = sys.argv[1:]
    if not rest:
        prepare(Path(folder), int(problems))
        return
    kills, seed, tp, dp = [*map(int, rest), *(1, 1)[len(rest) - 2 :]]
    prepare_apart(Path(folder), problems)
    whole = copy_of(Path(folder), "whole", tp, dp)
    begun = time.monotonic()
    process = start(whole)
    try:
        wait(lambda: shards_of(whole) > 0, process)
        first = time.monotonic() - begun
        assert process.wait() == 0
    finally:
        end(process)
    seconds = time.monotonic() - begun
    print(f"TP {tp} DP {dp}: {shards_of(whole)} shards in {seconds:.1f} s, the first after {first:.1f} s", flush=True)
    run_with_kills(whole, copy_of(Path(folder), "killed", tp, dp), first, seconds, kills, seed)


if __name__ == "__main__":
    main()
