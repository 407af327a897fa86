"""The command line with stand-ins for the stages: a few lines of Python that leave the files that the catalog names."""

import sys
from pathlib import Path

import pytest
from cli import preset

from pipeline.run import cli
from pipeline.run.launch import Command

STAND_IN = """
import json, os, re, sys, time
from pathlib import Path

text = Path(sys.argv[1]).read_text()
stage = re.search(r"^stage: (.*)", text, re.M).group(1)
seed = re.search(r"^seed: (.*)", text, re.M).group(1)
when = re.search(r"^evaluate:\\n  checkpoint: (.*)", text, re.M).group(1)
steps = re.search(r"^rl:\\n  steps: (.*)", text, re.M).group(1) if stage == "rl" else "0"
root = Path(sys.argv[1]).parents[1]
print("worked on", stage, flush=True)
leave = {
    "preprocess": ["preprocess/train.jsonl", "preprocess/tokenizer/a.json", "preprocess/eval/a.jsonl"],
    "sft": ["sft/hf/model.safetensors"],
    "convert": ["convert/iter_0000000/x", "convert/latest_checkpointed_iteration.txt"],
    "rl": [f"checkpoints/iter_{int(steps):07d}/x", "checkpoints/latest_checkpointed_iteration.txt", "metrics.jsonl"],
    "evaluate": [f"evaluate/{os.environ['TEST_VARIANT']}.json"],
    "export": ["export/hf/model.safetensors"],
    "rollout": ["rollout/pass_rates.jsonl", "rollout/shards/0.jsonl"],
    "report": ["report.html"],
}[stage]
accuracy = {"n": 4, "greedy": 0.25 if when == "before" else 0.75, "avg@8": 0.5, "pass@8": 1.0}
for name in leave:
    content = stage + seed
    if name.endswith("iteration.txt"):
        content = steps
    if stage == "evaluate":
        content = json.dumps({"sets": {"a": accuracy}})
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
died = os.environ.get("TEST_DIE") == stage
outcome = {"code": int(died), "message": "", "traceback": "RuntimeError: died" if died else "", "stopped": False}
outcome |= {"result": {"steps": int(steps)}, "rank": 0, "host": "", "time": time.time() + 1}
Path(os.environ["ETR_OUTCOME_FOLDER"], "rank0.json").write_text(json.dumps(outcome))
sys.exit(died)
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Calls the command line with stand-ins for the stages; returns exit code, what was printed, what was complained."""
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # the command line goes to the project's folder, and the test comes back

    def command(job, root: Path, node: int) -> Command:
        return Command(
            [sys.executable, "-S", str(script), str(cli.config_path(job, root, node))],
            {"TEST_VARIANT": job.variant or ""},
        )

    monkeypatch.setattr(cli, "command", command)
    model = f"model={preset(tmp_path)}"

    def call(*words: str, short: bool = False) -> tuple[int, str, str]:
        """`short`: without model=."""
        code = cli.main([*words, *([] if short else [model]), f"runs_dir={tmp_path / 'runs'}"])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return call
