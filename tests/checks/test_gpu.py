"""stage=doctor check=gpu: every rung at a small size on the CPU (the same code), and at its full size where there is a GPU."""

import math
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from megatron_patches.policy_head import selection
from megatron_patches.policy_head.backend import TorchBackend
from pipeline.common.errors import InputError
from pipeline.common.files import read_json
from pipeline.run.compose import compose
from pipeline.stage import StageRun
from stages.checks import gpu, kernels, ladder, tiny_run
from stages.checks.ladder import Found, NotHere, climb

CPU = torch.device("cpu")
FP32, BF16 = torch.float32, torch.bfloat16

SMALL = {
    "objective": partial(kernels.objective, CPU, 16),
    "products": partial(kernels.products, CPU, 32, 64, 16, FP32),
    "attention": partial(kernels.attention, CPU, [5, 1, 9], 4, 2, 8, FP32),
    "attention in bf16": partial(kernels.attention, CPU, [5, 1, 9], 4, 2, 8, BF16),
    "head": partial(kernels.head, CPU, 40, 16, 101, FP32, "torch"),
    "head in bf16": partial(kernels.head, CPU, 40, 16, 101, BF16, "torch"),
    "large tile": partial(kernels.large_tile, CPU, 40, 1000, "torch"),
}


@pytest.mark.parametrize("name", SMALL)
def test_a_rung_passes_at_a_small_size(name):
    found = SMALL[name]()
    assert found.ok, found


class WrongEntropy(TorchBackend):
    """Forgets the gradient of the entropy, as a kernel that was never run might."""

    def gradient(self, logits, target, lse, dtype, d_logp, d_entropy=None, entropy=None):
        return super().gradient(logits, target, lse, dtype, d_logp)


class WrongTail(TorchBackend):
    """Leaves the last rows of a long tile alone, as an index that overflows might."""

    def statistics(self, logits, target, entropy, out):
        super().statistics(logits, target, entropy, out)
        if len(logits) > 4:
            out[:, -1] = 1.0


def test_rungs_see_what_they_are_for(monkeypatch):
    """Each fault planted alone fails the rung that should see it."""
    monkeypatch.setattr(kernels, "_backend", lambda _device, _name: WrongEntropy())
    assert not SMALL["head"]().ok
    monkeypatch.setattr(kernels, "_backend", lambda _device, _name: WrongTail())
    assert not SMALL["large tile"]().ok
    monkeypatch.setattr(kernels, "_addmm", lambda out, a, b, beta, alpha: out.copy_(alpha * a @ b))
    assert not SMALL["products"]().ok  # beta is forgotten
    monkeypatch.setattr(kernels.PackedRows, "of", classmethod(lambda cls, lengths: _merged(cls, lengths)))
    assert not SMALL["attention"]().ok


def _merged(cls, lengths):
    """The bounds of one long sequence: tokens attend to their neighbours' tokens."""
    bounds = torch.tensor([0, sum(lengths)], dtype=torch.int32)
    return cls(qkv_format="thd", cu_seqlens_q=bounds, lengths=[sum(lengths)], device_bounds=bounds)


def test_what_needs_cuda_is_skipped_with_the_reason():
    rows, interrupted = climb(
        [("triton", partial(kernels.head, CPU, 8, 8, 16, FP32, "triton")), ("choice", partial(kernels.backend_choice, CPU))],
        print, 60,
    )  # fmt: skip
    assert not interrupted
    assert [(row.ok, "CUDA" in row.got) for row in rows] == [(None, True), (None, True)]


def test_rungs_put_every_tensor_on_the_device(monkeypatch):
    """On fake tensors of another device than the CPU, where an operation on both raises, and so does every wait of the host for
    a number."""
    device = torch.device("meta")
    for name in ("_relative", "_largest"):  # the end of a rung, which reads numbers
        monkeypatch.setattr(kernels, name, lambda found, _expected: assert_on(found, "meta"))
    with FakeTensorMode():
        assert kernels.attention(device, [5, 1, 9], 4, 2, 8, FP32).ok
        assert kernels.head(device, 40, 16, 101, FP32, "torch").ok
        assert kernels.products(device, 32, 64, 16, FP32).ok
        assert kernels.head(device, 40, 16, 101, BF16, "torch").ok


def assert_on(tensor, kind):
    assert tensor.device.type == kind
    return 0.0


def test_the_forced_backend_lasts_as_long_as_its_block():
    mine = TorchBackend()
    with selection.forced(mine):
        assert selection.select(CPU, FP32) is mine
    assert selection.select(CPU, FP32) is not mine


def broken():
    raise ValueError("no such kernel\nand a trace")


def interrupt():
    raise KeyboardInterrupt


def later():
    raise NotHere("not here")


GOOD = ("good", lambda: Found("a | b", "c", True))


def test_a_rung_that_raises_does_not_end_the_ladder():
    said = []
    rows, _ = climb([("bad", broken), ("away", later), GOOD], said.append, 60)
    assert [(row.name, row.ok, row.got) for row in rows] == [
        ("bad", False, "ValueError: no such kernel"), ("away", None, "not here"), ("good", True, "c"),
    ]  # fmt: skip
    assert said[0] == "[1/3] bad"
    assert ladder.screen(rows)[1].split() == ["bad", "ValueError:", "no", "such", "kernel", "FAILED", "0.0"]
    assert ladder.page(rows)[-1] == "| good | a \\| b | c | ok | 0.0 |"


def test_ctrl_c_keeps_what_was_got():
    rows, interrupted = climb([GOOD, ("slow", interrupt), GOOD], print, 60)
    assert interrupted
    assert [row.ok for row in rows] == [True, None, None]
    assert rows[2].got == "not tried: interrupted"


def test_when_time_is_up_no_rung_is_begun():
    rows, _ = climb([GOOD], print, -1)
    assert rows[0].ok is None
    assert "not begun" in rows[0].got


@pytest.fixture
def staged(tmp_path, monkeypatch, world):
    """Runs the stage's main with given rungs, as if torch saw a GPU; returns the folder and the error."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(world, "initialize", lambda *_, **__: None)
    monkeypatch.setattr(world, "device", lambda: CPU)
    monkeypatch.setattr(gpu, "header", lambda: ["a GPU", "torch 0"])
    before = signal.getsignal(signal.SIGTERM)

    def call(*rungs):
        monkeypatch.setattr(gpu, "rungs", lambda _device, _folder: list(rungs))
        run = StageRun(compose(["stage=doctor", "check=gpu"]), tmp_path)
        try:
            gpu.main(run)
        except (InputError, KeyboardInterrupt) as error:
            return run.folder(), error
        return run.folder(), None

    yield call
    signal.signal(signal.SIGTERM, before)


def test_the_stage_prints_and_leaves_the_table(staged, capsys):
    folder, error = staged(GOOD)
    assert error is None
    assert "good  a | b  c    ok      0.0" in capsys.readouterr().out
    record = read_json(folder / "gpu.json")
    assert record["rungs"][0]["asked"] == "a | b"
    assert set(record["packages"]) == set(gpu.PACKAGES)
    assert "| rung | asked | got | result | seconds |" in (folder / "gpu.md").read_text()


def test_a_failed_rung_is_exit_code_3_after_the_table(staged, capsys):
    _, error = staged(("bad", broken), GOOD)
    assert (error.exit_code, str(error).partition(".")[0]) == (3, "1 of 2 rungs failed: bad")
    assert "FAILED" in capsys.readouterr().out


def test_a_stop_in_the_middle_prints_what_was_got(staged, capsys):
    """The launcher stops a stage with SIGTERM when Ctrl-C is pressed."""
    folder, error = staged(GOOD, ("slow", lambda: os.kill(os.getpid(), signal.SIGTERM)), GOOD)
    assert isinstance(error, KeyboardInterrupt)
    assert capsys.readouterr().out.count("not tried: interrupted") == 2
    assert [row["ok"] for row in read_json(folder / "gpu.json")["rungs"]] == [True, None, None]


def test_without_a_gpu_the_command_says_so(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises(InputError, match=r"check=gpu needs an NVIDIA GPU that torch sees; .* sees none"):
        gpu.main(StageRun(compose(["stage=doctor", "check=gpu"]), tmp_path))


def test_the_actors_rungs_on_the_cpu(world, tmp_path):
    """The update against another process, decoding in fp32, and a save."""
    from stages.checks import actor

    found = actor.update_as_on_cpu("tiny", 24)
    assert found.ok, found
    settings = actor.settings_of("tiny")
    found = actor.decoding(settings, 4, 8)
    assert found.ok, found
    assert actor.save(actor.build(settings), settings) > 0
    for rung in (actor.update_memory, actor.save_memory):
        with pytest.raises(NotHere, match="a CPU has no counter"):
            rung(settings, actor.experience_of(settings, 2, 4, 24))


TINY = ("model.parameters=none", "model.num_layers=2", "rl.rows=packed")
TINY_EXPERTS = (*TINY, "model.family=qwen3_moe", "model.experts.count=4", "model.experts.per_token=2",
                "model.experts.ffn_hidden_size=64")  # fmt: skip


def test_rungs_of_levers_pass_or_say_what_is_missing(world):
    from stages.checks import levers

    for name, lever in levers.LEVERS.items():
        if lever[0] == "te":
            with pytest.raises(NotHere, match="needs Transformer Engine on GPUs"):
                levers.same_step("tiny", TINY, lever, (2, 2, 24))
        else:
            found = levers.same_step("tiny", TINY, lever, (2, 2, 24))
            assert found.ok, (name, found)
    found = levers.same_step("tiny", TINY_EXPERTS, levers.EXPERT_LEVERS["experts in one product"], (2, 2, 24))
    assert found.ok, found


def test_a_rung_of_a_lever_sees_other_results(world, monkeypatch):
    """Stand-ins with Transformer Engine's names take its place. A planted fault, norms of shifted inputs, fails the rung."""
    import te_modules

    from megatron_patches.model import specs
    from stages.checks import levers

    monkeypatch.setattr(te_modules.gpt_layer_specs, "TESpecProvider", te_modules.Provider, raising=False)
    monkeypatch.setattr(specs, "unusable", lambda: None)
    assert levers.same_step("tiny", TINY, levers.LEVERS["TE layers"], (2, 2, 24)).ok
    forward = te_modules.LayerNormColumnParallelLinear.forward
    monkeypatch.setattr(
        te_modules.LayerNormColumnParallelLinear, "forward", lambda self, x, *a, **o: forward(self, x + 0.1, *a, **o)
    )
    assert not levers.same_step("tiny", TINY, levers.LEVERS["TE layers"], (2, 2, 24)).ok


def test_the_kill_of_the_tiny_run_comes_when_it_should():
    def start(code):
        return subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    running = start("import time; time.sleep(60)")
    assert tiny_run._kill_when(lambda: True, running, math.inf)
    assert running.returncode == -signal.SIGKILL
    assert not tiny_run._kill_when(lambda: False, start(""), math.inf)  # it ended before there was anything to continue


def test_the_ladder_is_whole(tmp_path):
    """Every rung of the list is built from functions that exist; none runs here."""
    names = [name for name, _ in gpu.rungs(CPU, tmp_path)]
    assert len(names) == len(set(names)) == 30
    assert sum("policy head" in name for name in names) == 7


NAMES = [name for name, _ in gpu.rungs(torch.device("cuda"), Path())]


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU; bash run.sh stage=doctor check=gpu runs the same list"
)
@pytest.mark.parametrize("name", NAMES)
def test_on_a_gpu(name, tmp_path, world):
    work = dict(gpu.rungs(world.device(), tmp_path))[name]
    try:
        found = work()
    except NotHere as reason:
        pytest.skip(str(reason))
    assert found.ok, found
