"""A loss from a user's file: the example of docs/custom-algorithm.md, and the errors if it cannot be loaded."""

import re
from pathlib import Path

import pytest
import torch

from pipeline.common.errors import UsageError
from pipeline.objectives import PolicyLossInputs, losses, policy_loss, prepare
from pipeline.objectives.losses import registry
from pipeline.objectives.losses.trial import try_out
from pipeline.settings import Algo


@pytest.fixture(autouse=True)
def own_table(monkeypatch):
    """Removes what a test registers."""
    monkeypatch.setattr(registry, "_LOSSES", dict(registry._LOSSES))
    registry._imported.cache_clear()


PAGE = Path(__file__).parents[2] / "docs" / "custom-algorithm.md"


def code_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def inputs(logp: torch.Tensor) -> PolicyLossInputs:
    old = torch.tensor([-1.0, -1.0, -1.0, float("nan")])
    return PolicyLossInputs(logp=logp, old_logp=old, advantages=torch.tensor([2.0, -1.0, 1.0, 1.0]), mask=old == -1)


def test_the_example_of_the_page_in_ten_lines(tmp_path, monkeypatch, capsys):
    example, trial = code_blocks()
    body = [line for line in example.splitlines()[1:] if line]
    assert len(body) <= 10
    (tmp_path / "my_losses.py").write_text(example)
    monkeypatch.chdir(tmp_path)
    exec(compile(trial, "trial", "exec"), {})
    assert "tensor([" in capsys.readouterr().out

    logp = torch.tensor([-0.9, -1.5, -1.0, -1.0], requires_grad=True)
    config = Algo(import_path="my_losses.py:soft_clip")
    loss, metrics = policy_loss(inputs(logp), config)
    loss.backward()
    ratio = (logp - torch.tensor(-1.0)).exp().detach()
    width = torch.tensor([0.28, 0.2, 0.2])
    t = torch.tanh((ratio[:3] - 1) / width)
    a = torch.tensor([2.0, -1.0, 1.0])
    assert loss.item() == pytest.approx((-(1 + width * t) * a).mean().item(), rel=1e-6)
    torch.testing.assert_close(logp.grad[:3], -(1 - t**2) * a * ratio[:3] / 3, rtol=1e-5, atol=0)
    assert logp.grad[3] == 0  # its width is 0 under the mask, so its own arithmetic is 0 / 0
    assert losses.of(config).separable
    assert metrics["clip/high"] == 0
    prepared = prepare(inputs(logp), config)
    halves = [policy_loss(prepared.tokens(logp[at], None, at), config)[0] for at in (slice(0, 2), slice(2, 4))]
    assert sum(halves).item() == pytest.approx(loss.item(), rel=1e-6)


def test_a_plain_function_takes_the_mode_that_is_right_for_every_loss(tmp_path):
    file = tmp_path / "plain.py"
    file.write_text("def reinforce(x, config):\n    return -x.advantages * x.logp\n")
    config = Algo(import_path=f"{file}:reinforce")
    assert losses.of(config).separable is False
    logp = torch.full((4,), -1.0, requires_grad=True)
    policy_loss(inputs(logp), config)[0].backward()
    assert logp.grad.tolist() == pytest.approx([-2 / 3, 1 / 3, -1 / 3, 0])


def test_a_module_may_be_named_too():
    config = Algo(import_path="pipeline.objectives.losses.cispo:cispo")
    assert losses.of(config) is losses.get("cispo")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere.py:f", "there is no file"),
        ("{file}:absent", "no function 'absent'"),
        ("{file}:NUMBER", "no function 'NUMBER'"),
        ("{broken}:f", "SyntaxError"),
        ("{clash}:f", "already"),
        ("no_such_package.module:f", "No module named"),
    ],
)
def test_an_import_that_fails_is_explained(tmp_path, path, says):
    (tmp_path / "good.py").write_text("NUMBER = 1\n")
    (tmp_path / "broken.py").write_text("def f(:\n")
    (tmp_path / "clash.py").write_text(
        "from pipeline.objectives.losses import register\n@register('grpo')\ndef f(x, config): return x.logp\n"
    )
    names = {name: tmp_path / f"{name}.py" for name in ("broken", "clash")} | {"file": tmp_path / "good.py"}
    with pytest.raises(UsageError, match=says) as caught:
        losses.of(Algo(import_path=path.format(**names)))
    assert "algo.import_path" in str(caught.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("-x.advantages * x.logp.mean()", "depends on other tokens"),
        ("-x.sequences().mean(x.log_ratio)", "depends on other tokens"),
        ("(-x.advantages * x.logp).sum()", r"one number a token, \[8\] for 8 tokens, not \[\]"),
        ("-x.advantage * x.logp", "no attribute 'advantage'"),
        ("None", "failed on a trial"),
    ],
)
def test_a_mistake_in_a_loss_is_found_before_it_trains(tmp_path, body, says):
    file = tmp_path / "mistaken.py"
    file.write_text(
        "from pipeline.objectives.losses import register\n"
        f"@register('mistaken', separable=True)\ndef mistaken(x, config):\n    return {body}\n"
    )
    with pytest.raises(UsageError, match=says):
        losses.of(Algo(import_path=f"{file}:mistaken"))


@pytest.mark.parametrize("name", losses.names())
def test_our_own_losses_pass_the_trial(name):
    loss = losses.get(name)
    try_out(loss.function, loss.separable, loss.needs_signal, name)
    if not loss.separable:
        with pytest.raises(UsageError, match="depends on other tokens"):
            try_out(loss.function, True, True, name)


def test_a_misspelled_loss_gets_the_nearest_name():
    with pytest.raises(UsageError, match="Did you mean dapo"):
        losses.get("dapoo")
    with pytest.raises(ValueError, match=r"Did you mean algo.loss=grpo_matched"):
        Algo(loss="grpo_match")
    with pytest.raises(ValueError, match=r"path/to/file\.py:function"):
        Algo(import_path="my_losses.py")
