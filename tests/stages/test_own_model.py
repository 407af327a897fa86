"""A model folder as users bring it, through the stages on the command line: converted, exported, or refused with its key.

The folder is a small Llama with random weights and generation_config.json; its preset is derived from config.json.
"""

import json
import re
import shutil

import pytest
import torch
from cli import run_cli
from own_data import write_rows
from safetensors.torch import load_file
from tiny_models import hf_model, tiny_model

from pipeline.common.files import read_jsonl
from pipeline.data import tokenizer
from pipeline.settings.derive import derive, to_yaml


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model folder, its preset, and problems; with the words of a command line."""
    folder = tmp_path_factory.mktemp("own model")
    rows = [{"problem": f"What is {i} + {i * 7}, or {i * 3}?", "answer": str(8 * i)} for i in range(12)]
    write_rows(folder / "a.jsonl", rows)
    (folder / "hf").mkdir()
    tokenizer.train_words((row["problem"] for row in rows), folder / "hf", 400)
    size = len(tokenizer.load(folder / "hf"))
    hf = hf_model(tiny_model("llama", vocab_size=size, max_position_embeddings=512))
    hf.config.use_cache = False  # as a fine-tuned folder often has it
    hf.generation_config.eos_token_id = [2, 3]
    hf.save_pretrained(str(folder / "hf"))
    (folder / "mine.yaml").write_text(to_yaml(derive(folder / "hf", gpus=0)))
    return folder


def run(place, stage, *words, name="x"):
    base = [f"stage={stage}", "model=mine.yaml", "data.path=a.jsonl", "runs_dir=runs", "sft.enabled=false"]
    return run_cli(
        *base,
        f"name={name}",
        "rollout.max_prompt_tokens=128",
        "rollout.max_new_tokens=64",
        *words,
        cwd=place,
        timeout=240,
    )


def test_it_is_converted_and_exported_as_it_was(place):
    for stage, words in (("preprocess", []), ("convert", []), ("export", ["export.checkpoint=before"])):
        result = run(place, stage, *words)
        assert result.code == 0, result.err
        if stage == "convert":
            assert "logits of 16 tokens compared with transformers: largest difference" in result.out
    exported, original = place / "runs" / "x" / "export" / "hf", place / "hf"
    one, other = load_file(exported / "model.safetensors"), load_file(original / "model.safetensors")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert json.loads((exported / "config.json").read_text())["use_cache"] is True
    assert json.loads((exported / "generation_config.json").read_text())["eos_token_id"] == [2, 3]
    assert len({file.stat().st_mode for file in exported.iterdir()}) == 1


@pytest.mark.parametrize(
    ("stage", "changes", "named"),
    [
        ("preprocess", {"attention_bias": True}, "attention_bias is True"),
        ("convert", {"rope_theta": 7.0, "rope_parameters": None}, "rope_theta is 7.0"),
    ],
)
def test_a_folder_that_differs_is_refused_with_exit_code_3(place, tmp_path, stage, changes, named):
    shutil.copytree(place / "hf", tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps(config | changes))
    result = run(place, stage, f"model.path={tmp_path / 'hf'}", name="y" if stage == "preprocess" else "x")
    assert result.code == 3, result.err
    assert named in result.err


def test_it_is_evaluated_in_one_command_without_a_training_file(place):
    """Files in the schemas in which GSM8K and AIME are published; the results are also in lm-evaluation-harness's form."""
    write_rows(
        place / "sets" / "gsm8k.jsonl",
        [{"question": f"What is {i} + 2?", "answer": f"Add.\n#### {i + 2}"} for i in range(3)],
    )
    write_rows(
        place / "AIME_2024.jsonl", [{"ID": "2024-I-1", "Problem": "What is 3 + 4?", "Solution": "", "Answer": 7}]
    )
    words = [
        "stage=evaluate",
        "model=hf",
        "data.eval=[gsm8k,AIME_2024.jsonl]",
        "data.eval_folder=sets",
        "evaluate.k_of.gsm8k=3",
    ]
    words += [
        "cluster=local",
        "cluster.devices_per_node=1",
        "rollout.max_prompt_tokens=128",
        "rollout.max_new_tokens=24",
    ]
    result = run_cli(*words, "runs_dir=runs", "name=alone", cwd=place, timeout=240)
    assert result.code == 0, result.err
    assert "gsm8k: 3 problems, greedy and 3 samples each at temperature 1, top_p 1; up to 128 + 24 tokens" in result.out
    assert "WARNING: gsm8k has 3 problems, and the published set has 1,319" in result.out
    assert re.search(r"evaluate gsm8k +\d+/12  .* tokens/s", result.out)
    assert "left" in result.out
    folder = place / "runs" / "alone" / "evaluate" / "before"
    written = json.loads((folder / "results.json").read_text())
    assert {
        "results",
        "configs",
        "versions",
        "n-shot",
        "n-samples",
        "higher_is_better",
        "config",
        "date",
    } <= written.keys()
    assert written["results"]["gsm8k"]["pass@3,none"] == 0.0
    assert set(written["results"]["AIME_2024"]) == {"alias"} | {
        f"{name}{kind},none"
        for name in ("greedy", "avg@8", "pass@1", "pass@2", "pass@4", "pass@8", "maj@8")
        for kind in ("", "_stderr")
    }
    assert written["configs"]["gsm8k"]["k"] == 3
    assert written["n-samples"]["gsm8k"] == {"original": 3, "effective": 3}
    samples = list(read_jsonl(folder / "samples_gsm8k.jsonl"))
    assert [(row["doc_id"], row["target"], len(row["resps"][0])) for row in samples] == [
        (i, str(i + 2), 4) for i in range(3)
    ]
    assert not (place / "runs" / "alone" / "preprocess" / "train.jsonl").exists()
