"""What the plan prints, and which layouts it refuses, with the reason."""

import pytest
from cli import TINY_SHAPE, preset

from pipeline.common.errors import UsageError
from pipeline.run import cli
from pipeline.run.compose import compose
from pipeline.run.plan import check


@pytest.fixture
def rl(tmp_path, monkeypatch):
    """Composes `stage=rl` of a small preset on one node of eight GPUs, at tp 2."""
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    path = preset(tmp_path)
    return lambda *words: compose(["stage=rl", f"model={path}", "cluster=gpu8", "rl.group_size=16", *words])


def test_the_small_preset_itself_is_fine(rl):
    check(rl())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["layout.tp=3"], ["layout.tp=3", "num_attention_heads=4", "not divisible by tp 3"]),
        (["layout.tp=4"], ["layout.tp=4 does not divide model.num_query_groups=2"]),
        (["layout.pp=3"], ["layout.pp=3 does not divide model.num_layers=4"]),
        (["layout.pp=2", "layout.vpp=4"], ["layout.pp=2 times layout.vpp=4 does not divide model.num_layers=4"]),
        (["layout.vpp=2"], ["layout.pp=1 has only one"]),
        (["layout.tp=1", "layout.sp=true"], ["layout.sp=true", "layout.tp > 1"]),
        (["layout.ep=2"], ["layout.ep=2", "this model has none"]),
        (["cluster.devices_per_node=3"], ["3 ranks", "tp 2 x pp 1 x cp 1 = 2"]),
        (["layout.cp=3"], ["8 ranks", "cp 3"]),
        (["layout.pp=2", "rollout.engine=native"], ["rollout.engine=native", "rollout.engine=vllm"]),
        (["rl.minibatches=3"], ["64 responses", "rl.minibatches=3"]),
        (["rl.prompts_per_step=1", "rl.minibatches=8"], ["minibatches of 2", "4 data-parallel ranks"]),
        (["rollout.max_new_tokens=250"], ["314 exceed the model's context of 256"]),
        (["layout.micro_batch_tokens=100"], ["128 do not fit into layout.micro_batch_tokens=100"]),
        (["cluster.nnodes=2", "cluster.node_rank=2"], ["cluster.node_rank=2 must be below cluster.nnodes=2"]),
        (["cluster.device_memory_gib=0.5"], ["alone need 2.5 GiB", "cluster.device_memory_gib"]),
        (["layout.rollout_tp=3"], ["layout.rollout_tp=3 does not divide cluster.devices_per_node=8"]),
        (
            ["rollout.mode=standalone", "rollout.server_ranks=3", "layout.rollout_tp=2"],
            ["layout.rollout_tp=2 does not divide rollout.server_ranks=3"],
        ),
    ],
)
def test_a_layout_that_cannot_work_is_refused_with_its_reason(rl, words, said):
    with pytest.raises(UsageError) as caught:
        check(rl(*words))
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["layout.ep=3", "layout.tp=1"], "layout.ep=3 does not divide model.experts.count=8"),
        (["layout.ep=2", "layout.tp=2"], "needs layout.sp=true"),
        (["layout.ep=8", "layout.tp=1", "cluster.devices_per_node=4"], "not divisible by layout.ep=8"),
    ],
)
def test_expert_layouts(tmp_path, monkeypatch, words, said):
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    text = TINY_SHAPE.replace("family: qwen3", "family: qwen3_moe\n  experts: {count: 8, per_token: 2}")
    path = preset(tmp_path, text, "moe")
    with pytest.raises(UsageError) as caught:
        check(compose(["stage=rl", f"model={path}", "cluster=gpu8", *words]))
    assert said in str(caught.value)


def test_a_dry_run_prints_every_node_and_runs_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    (tmp_path / "none.yaml").write_text("{}")
    groups = ["data=none.yaml", "algo=none.yaml", "name=dry-run-of-a-test", f"runs_dir={tmp_path}"]
    nodes = ["cluster.nnodes=4", "cluster.master_addr=head", "cluster.node_rank=2"]
    assert cli.main(["stage=rl", "model=32b", "dry_run=true", *groups, *nodes]) == 0
    out = capsys.readouterr().out
    for node in range(4):
        assert (
            f"--nnodes=4 --nproc-per-node=8 --node-rank={node} --rdzv-backend=nodes --rdzv-endpoint=head:29500" in out
        )
        assert f"cluster.node_rank={node}" in out
    assert "TP 8, PP 2, CP 1, EP 1, DP 2" in out
    assert "32,763,876,352 parameters" in out
    assert "micro-batches of 8192 tokens" in out
    assert "Nothing was run" in out
    assert not (tmp_path / "dry-run-of-a-test").exists()


def test_the_plan_of_everything_names_each_stage_and_launcher(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    path = preset(tmp_path)
    assert cli.main(["stage=plan", f"model={path}"]) == 0
    out = capsys.readouterr().out
    for stage in ("preprocess", "sft", "convert", "rl", "evaluate", "export", "report"):
        assert f"stages.{stage} " in out
    assert "--nproc-per-node=2 --rdzv-backend=loopback" in out
    assert "DS_ACCELERATOR=cpu" in out
    assert "evaluate (before)" in out
    assert cli.main(["stage=plan", f"model={path}", "cluster=gpu8", "rl.group_size=16"]) == 0
    assert "deepspeed.launcher.launch" in capsys.readouterr().out


NODES = ["cluster.nnodes=2", "cluster.master_addr=head", "cluster=gpu8", "rl.group_size=16"]


def typed(out):
    """Stage, checkpoint and node of every line to type."""
    lines = [line.split() for line in out.splitlines() if line.startswith("  bash run.sh ")]
    keys = ("stage", "evaluate.checkpoint", "cluster.node_rank")
    return [tuple(dict(word.split("=", 1) for word in line[2:]).get(key) for key in keys) for line in lines]


def test_each_node_types_the_stage_that_was_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    model = f"model={preset(tmp_path)}"
    assert cli.main(["stage=rl", model, "dry_run=true", *NODES]) == 0
    assert typed(capsys.readouterr().out) == [("rl", None, "0"), ("rl", None, "1")]
    assert cli.main(["stage=report", model, "dry_run=true", *NODES]) == 0
    assert typed(capsys.readouterr().out) == [("report", None, "0")]  # a plain stage runs on node 0 only


@pytest.mark.parametrize("stage", ["plan", "all"])
def test_a_plan_of_everything_names_each_stage_and_node(tmp_path, monkeypatch, capsys, stage):
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    assert cli.main([f"stage={stage}", f"model={preset(tmp_path)}", "dry_run=true", *NODES]) == 0
    out = capsys.readouterr().out
    assert typed(out) == [
        ("preprocess", None, "0"),
        ("sft", None, "0"), ("sft", None, "1"),
        ("convert", None, "0"), ("convert", None, "1"),
        ("evaluate", "before", "0"), ("evaluate", "before", "1"),
        ("rl", None, "0"), ("rl", None, "1"),
        ("export", None, "0"), ("export", None, "1"),
        ("evaluate", "after", "0"), ("evaluate", "after", "1"),
        ("report", None, "0"),
    ]  # fmt: skip
    for line in out.splitlines():
        if line.startswith("  bash run.sh "):
            compose(line.split()[2:])  # what is to be typed is itself accepted


def test_host_memory_of_a_node(tmp_path, monkeypatch, capsys):
    """A checkpoint of 32,763,876,352 parameters is gathered at 36 bytes each where one rank holds each part: 1,098.5 GiB, and a
    little for rounding. On four nodes two ranks share each part, so a node gathers half of them at 30: 457.7 GiB. The warm-up
    with ZeRO 1 reads the bf16 weights on each of 8 ranks: 488.2 GiB."""
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    words = ["stage=rl", "model=32b", "dry_run=true"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "Host memory of a node, GiB (estimate): 1098.6 for RL while it saves a checkpoint" in out
    assert "a node has 1536" in out
    assert "WARNING" not in out
    words += ["cluster.nnodes=4", "cluster.node_memory_gib=470"]
    assert cli.main([*words, "sft.zero_stage=1"]) == 0
    out = capsys.readouterr().out
    assert "(estimate): 488.2 for the warm-up's model on each of 8 ranks" in out
    assert "WARNING: by this estimate it does not fit (cluster.node_memory_gib)" in out
    assert cli.main([*words, "sft.enabled=false"]) == 0
    assert "WARNING" not in capsys.readouterr().out


def test_memory_of_the_warm_up(tmp_path, monkeypatch, capsys):
    """32,763,876,352 parameters: 2 bytes of weights, 2 of gradients and 12 of optimizer each. ZeRO 1 shares the optimizer
    over 8 ranks: 61.0 + 61.0 + 45.8 GiB; ZeRO 3 shares all of it: 61.0."""
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    words = ["stage=sft", "model=32b", "dry_run=true", "data.sft_path=x.jsonl"]
    assert cli.main(words) == 0
    out = capsys.readouterr().out
    assert "Memory of the warm-up on a device, GiB" in out
    for line in ("weights          7.6  bf16, ZeRO 3 over 8 ranks", "gradients        7.6", "optimizer       45.8"):
        assert line in out
    assert "WARNING" not in out
    for stage in ("sft", "all"):
        assert cli.main([f"stage={stage}", *words[1:], "sft.zero_stage=1"]) == 2
        said = capsys.readouterr().err
        assert "alone need 170.3 GiB a device with sft.zero_stage=1 over 8 ranks, and a device has 141" in said
        assert "sft.zero_stage=3 (63.5 GiB)" in said
    assert cli.main([*words, "cluster=gpu8", "sft.micro_batch_size=64"]) == 0
    assert "WARNING: by this estimate it does not fit. Try" in capsys.readouterr().out


def test_host_memory_while_a_checkpoint_is_saved(capsys):
    """134,515,008 parameters: 2 ranks with fp32 weights, gradients and half of Adam's moments each, 6 bytes of each for
    copies, and on one rank 24 bytes a parameter of what is gathered: 7.5 GiB. 7.2 GB (6.7 GiB) were resident."""
    words = [
        "stage=rl",
        "model=smollm2-135m",
        "cluster=local",
        "model.dtype=fp32",
        "layout.micro_batch_tokens=600",
        "dry_run=true",
    ]
    words += [
        "rollout.max_prompt_tokens=100",
        "rollout.max_new_tokens=500",
        "rollout.kv_memory_gib=0.1",
        "sft.enabled=false",
    ]
    assert cli.main(words) == 0
    assert "Host memory of a node, GiB (estimate): 7.5 for RL while it saves a checkpoint" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["rollout.engine=native", "rollout.kv_memory_gib=3"], "generation       3.0  KV cache, at most"),
        (["rollout.gpu_memory_share=0.5"], "generation      40.0  vLLM's share of 0.5"),
        (["rollout.mode=standalone", "rollout.server_ranks=4"], "generation       0.0  on the servers"),
    ],
)
def test_the_memory_of_sampling_is_that_of_the_engine_that_the_run_uses(capsys, words, said):
    assert cli.main(["stage=rl", "model=8b", "dry_run=true", *words]) == 0
    assert said in capsys.readouterr().out


def test_a_dry_run_of_an_impossible_layout_is_refused(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    assert cli.main(["stage=rl", f"model={preset(tmp_path)}", "dry_run=true", "layout.tp=3"]) == 2
    assert "layout.tp=3 does not divide" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["cluster=local"], "rl.recompute=full, a smaller layout.micro_batch_tokens, a smaller rollout.kv_memory_gib,"),
        (["cluster=local", "layout.micro_batch_tokens=4096"], "Try a smaller rollout.kv_memory_gib, a larger layout.tp.\n"),
        (["cluster=gpu1", "cluster.device_memory_gib=8", "rollout.engine=vllm", "rollout.gpu_memory_share=0.1"],
         "Try rl.recompute=full, rl.optimizer.cpu_offload=true, a smaller layout.micro_batch_tokens, a larger layout.tp, or"
         " more nodes.\n"),
    ],
    ids=["CPU", "CPU, generation alone", "GPU"],
)  # fmt: skip
def test_what_does_not_fit_is_told_what_helps_there(capsys, words, said):
    """A machine without GPUs is given no advice about them, and each peak its own."""
    assert cli.main(["stage=rl", "model=smollm2-135m", "dry_run=true", "sft.enabled=false", *words]) == 0
    out = capsys.readouterr().out
    assert said in out
    assert "warm-up" not in out
