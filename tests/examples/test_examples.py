"""Every example runs: alone through the public functions, and all three together in one real RL step."""

import math
import re
import shlex

import pytest
import torch
from cli import ROOT, run_cli
from house import House
from own_data import rows_of

from pipeline.common.files import read_jsonl
from pipeline.objectives import PolicyLossInputs, losses, policy_loss
from pipeline.objectives.losses import registry
from pipeline.run.compose import compose
from pipeline.stage import StageRun
from pipeline.verify import grade
from pipeline.verify.rewards import Scorer
from stages import preprocess

EXAMPLES = ROOT / "examples"
REWARDS = "verify.rewards={correctness: 1.0, brief:brief: 0.1}"


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    """What a test registers is gone after it; paths in presets are relative to the project's folder."""
    monkeypatch.setattr(registry, "_LOSSES", dict(registry._LOSSES))
    registry._imported.cache_clear()
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(str(EXAMPLES / "own_reward"))


def test_the_data_are_read_under_their_own_column_names(tmp_path):
    words = ["stage=preprocess", "model=tiny", "data=examples/own_data/data.yaml", "rollout.max_prompt_tokens=128"]
    settings = compose([*words, f"runs_dir={tmp_path}", "name=test"])
    run = StageRun(settings, tmp_path / "test")
    preprocess.main(run)
    source = list(read_jsonl(EXAMPLES / "own_data" / "train.jsonl"))
    kept = rows_of(run, "train")
    assert len(kept) == len(source)
    assert {row["problem"] for row in kept} == {row["question"] for row in source}
    answers = {row["question"]: row["worked"].rpartition("#### ")[2] for row in source}
    assert all(row["answer"] == answers[row["problem"]] for row in kept)
    assert len(rows_of(run, "sft")) == len(source)
    assert len(rows_of(run, "eval/held_out")) == 12


def test_the_reward_is_added_with_its_weight():
    settings = compose(["stage=rl", "model=tiny", REWARDS, "rollout.max_new_tokens=40"])
    score = Scorer(settings.verify, settings.rollout.max_new_tokens)
    right, wrong = grade(r"\boxed{3}", "3"), grade(r"\boxed{4}", "3")
    assert score("", right, 10) == pytest.approx(1 + 0.1 * 0.75)
    assert score("", wrong, 10) == pytest.approx(0.1 * 0.375)
    assert score("", right, 40) == pytest.approx(1)


def test_the_loss_is_what_its_preset_names():
    config = compose(["stage=rl", "model=tiny", "algo=examples/own_loss/algo.yaml"]).algo
    assert losses.of(config).separable
    logp = torch.tensor([math.log(1.1), math.log(0.7)], dtype=torch.float64, requires_grad=True)
    inputs = PolicyLossInputs(
        logp=logp, old_logp=torch.zeros(2), advantages=torch.tensor([2.0, -1.0]), mask=torch.ones(2)
    )
    loss, _ = policy_loss(inputs, config)
    loss.backward()
    up, down = math.tanh(0.1 / config.eps_high), math.tanh(-0.3 / config.eps_low)
    values = (-(1 + config.eps_high * up) * 2, (1 + config.eps_low * down))
    assert loss.item() == pytest.approx(sum(values) / 2)
    expected = torch.tensor([-2 * (1 - up**2) * 1.1, (1 - down**2) * 0.7], dtype=torch.float64) / 2
    torch.testing.assert_close(logp.grad, expected, rtol=1e-6, atol=0)


def test_the_commands_in_their_readmes_are_understood(monkeypatch):
    monkeypatch.setenv("ETR_FOLDER", str(ROOT))
    for page in EXAMPLES.rglob("README.md"):
        blocks = re.findall(r"```\n(.*?)```", page.read_text(), re.DOTALL)
        commands = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if "run.sh" in line]
        assert commands, page
        for command in commands:
            words = shlex.split(command)
            start = words.index("run.sh") + 1
            assert words[:start] in (
                ["bash", "run.sh"],
                ["PYTHONPATH=examples/own_reward", "bash", "run.sh"],
                ["ETR_EXTRAS=gguf", "bash", "run.sh"],
            )
            remembered = ["model=examples/smollm2-gsm8k/words.yaml"] if words[-1] == "name=smollm2" else []
            compose([*words[start:], *remembered])


@pytest.mark.slow
def test_all_three_in_one_rl_step(tmp_path):
    house = House(tmp_path)
    words = (
        f"data={EXAMPLES}/own_data/data.yaml", f"algo={EXAMPLES}/own_loss/algo.yaml", REWARDS, "rl.steps=1",
        "verify.rewards.overlong=0", "sft.enabled=false", "rollout.max_prompt_tokens=96",
    )  # fmt: skip
    path = f"{ROOT}:{EXAMPLES / 'own_reward'}"
    for stage in ("preprocess", "convert", "rl"):
        result = run_cli(*house.words(stage, *words, name="examples"), cwd=tmp_path, timeout=300, PYTHONPATH=path)
        assert result.code == 0, result.err
    # The preset's rewards and these are laid over each other, so `overlong` is turned off by its weight.
    (row,) = read_jsonl(house.root("examples") / "metrics.jsonl")
    assert 0 < row["reward/mean"] < 0.1  # hardly ever right, but some responses are short
    assert row["policy/live_tokens"] > 0  # so rewards within a group differ, and the loss moves the weights
    assert row["optim/grad_norm"] > 0
