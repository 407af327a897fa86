"""Rehearsals: as much memory as real tensors take, faults of GPUs found without one, and every preset."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cli import ROOT, preset
from ranks import run_ranks

from pipeline.common.errors import UsageError
from pipeline.run import cli
from pipeline.run.compose import compose
from pipeline.run.door import preset_names
from pipeline.run.plan import check, memory_of
from pipeline.run.rehearsal import ranks_of, rehearse

ALONE = ["stage=rl", "model=tiny", "layout.tp=1", "cluster.devices_per_node=1", "rl.rows=packed"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    for name in ("SLURM_JOB_ID", "SLURM_NODEID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))


def config(folder: Path, *words: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(compose([*ALONE, *words]).model_dump(mode="json")))
    return path


MEASURED = [
    "stage=rl", "model=tiny", "rl.rows=packed", "rollout.engine=vllm", "rollout.sync_bucket_mib=1",
    "rl.head_chunk_tokens=256",  # the policy head's tiles depend on the device, unless they are given
    "rl.recompute=full", "layout.micro_batch_tokens=2048", "rollout.max_new_tokens=200",
]  # fmt: skip
LARGE = [
    "model.num_layers=12", "model.hidden_size=768", "model.ffn_hidden_size=2304", "model.num_attention_heads=12",
    "model.num_query_groups=6", "model.head_dim=64", "model.parameters=none", "layout.micro_batch_tokens=256",
    "rollout.max_new_tokens=96", "rollout.sync_bucket_mib=16", "layout.tp=1",
]  # fmt: skip
"""85 million parameters."""


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        pytest.param(1, ["layout.tp=1", "cluster.devices_per_node=1"], id="one rank"),
        pytest.param(2, ["layout.tp=1"], id="two data-parallel ranks"),
        pytest.param(
            1, [*LARGE, "cluster.devices_per_node=1"], id="85 million parameters, one rank", marks=pytest.mark.long
        ),
        pytest.param(2, LARGE, id="85 million parameters, two data-parallel ranks", marks=pytest.mark.long),
    ],
)
def test_memory_is_that_of_real_tensors(tmp_path, ranks, words):
    for rank, found in compared(tmp_path, ranks, words):
        own = found["phases"]["save"]["parts"]["weights"] // 4
        # Bytes a parameter. Rank 0 gathers 24; each rank also copies 12 of every parameter in its own share.
        gathered = 24 if rank == 0 else 0
        assert found["phases"]["save"]["host_peak"] == pytest.approx((gathered + 12 / ranks) * own, rel=0.12)


def compared(tmp_path, ranks: int, words: list[str]):
    """The same step with real tensors on the CPU, counted by other code: log-probs, update, sync and save within 1%. Device and
    host are one memory there, so the rehearsal's are added. Yields each rank and its rehearsal.

    Experts: gloo's thread frees a buffer of hidden states sooner or later, which is another 1%."""
    settings = compose([*MEASURED, *words])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    run_ranks(ranks, ROOT / "tests" / "rehearsal" / "real_rank.py", path, tmp_path / "real.json", timeout=400)
    for rank, found in enumerate(rehearse(settings, range(ranks))):
        real = json.loads((tmp_path / f"real.json.{rank}").read_text())
        peaks = {name: phase["both_peak"] for name, phase in found["phases"].items()}
        peaks["update"] = max(peaks[name] for name in ("update", "gradients", "optimizer step"))
        assert set(real) == {"log-probs", "update", "sync", "save"}
        for name, size in real.items():
            share = 0.02 if settings.model.experts.count else 0.01
            assert abs(peaks[name] - size) < share * size, f"rank {rank}, {name}: {peaks[name]} rehearsed, {size} real"
        yield rank, found


SHAPE = """
model:
  family: {family}
  num_layers: 4
  hidden_size: 512
  ffn_hidden_size: 1536
  num_attention_heads: 8
  num_query_groups: 4
  head_dim: 64
  vocab_size: 256
  max_position_embeddings: 4096
  {more}
"""
EXPERTS = "qk_norm: true\n  experts: {count: 8, per_token: 2, ffn_hidden_size: 384}"
LEVERS = {
    "selective recomputation": (2, ["rl.recompute=selective"]),
    "no recomputation, tp 2 with sequence parallelism": (2, ["rl.recompute=none", "layout.tp=2", "layout.sp=true"]),
    "pp 2": (2, ["layout.pp=2", "model.num_layers=4", "model.parameters=none"]),
    "pp 2, vpp 2": (2, ["layout.pp=2", "layout.vpp=2", "model.num_layers=4", "model.parameters=none"]),
    "cp 2": (2, ["layout.cp=2"]),
    "optimizer on the host": (1, ["rl.optimizer.cpu_offload=true"]),
    "experts": (2, ["layout.ep=2"]),
    "grouped experts": (2, ["layout.ep=2", "rl.grouped_experts=true", "model.dtype=bf16"]),
    "replayed routing": (2, ["layout.ep=2", "rl.routing_replay=actor"]),
}


def lever(folder: Path, name: str) -> tuple[int, list[str]]:
    """Ranks and words of one of LEVERS."""
    ranks, words = LEVERS[name]
    if "layout.ep=2" in words:
        words = [*words, f"model={preset(folder, SHAPE.format(family='qwen3_moe', more=EXPERTS), 'qwen3_moe')}"]
    return ranks, ["layout.tp=1", "model.dtype=fp32", *words, f"cluster.devices_per_node={ranks}"]


@pytest.mark.long
@pytest.mark.parametrize("name", LEVERS)
def test_memory_with_levers_and_layouts_is_that_of_real_tensors(tmp_path, name):
    ranks, words = lever(tmp_path, name)
    assert [rank for rank, _ in compared(tmp_path, ranks, words)] == [*range(ranks)]


@pytest.mark.parametrize("name", ["cp 2", "pp 2, vpp 2", "grouped experts"])
def test_levers_and_layouts_are_rehearsed(tmp_path, name):
    """A mask of context parallelism could not be made, and the sync did not know which layers a virtual stage has."""
    ranks, words = lever(tmp_path, name)
    (found,) = rehearse(compose([*MEASURED, *words]), [ranks - 1])
    assert {"log-probs", "update", "sync", "save"} <= set(found["phases"])
    assert found["phases"]["update"]["flops"] > 0


def test_parts_are_those_of_an_fp32_model():
    (found,) = rehearse(compose([*MEASURED, "layout.tp=1", "cluster.devices_per_node=1"]), [0])
    peaks = {name: phase["peak"] for name, phase in found["phases"].items()}
    # Sixteen bytes a parameter: fp32 weight, gradient and two moments; 64 rows of padded vocabulary, three layers.
    parts = found["phases"]["update"]["parts"]
    weights = compose(ALONE).model.parameters
    assert parts["weights"] == pytest.approx(4 * weights, rel=0.01)
    assert parts["gradients"] == pytest.approx(4 * weights, rel=0.01)
    assert parts["optimizer"] == pytest.approx(8 * weights, rel=0.01)
    assert found["phases"]["save"]["peak"] < peaks["optimizer step"], "a checkpoint is gathered on the host"


SHAPES = [
    pytest.param("llama", "rope: {theta: 10000.0}", ["layout.tp=2", "layout.sp=true"], id="dense"),
    pytest.param(
        "qwen3_moe", EXPERTS,
        ["layout.tp=2", "layout.sp=true", "layout.ep=2"], id="experts", marks=pytest.mark.slow,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("family", "more", "layout"), SHAPES)
def test_the_estimate_of_kept_activations_is_the_rehearsals(tmp_path, family, more, layout):
    """Within 10% with the policy head, whose tensors live at the same moment; it was 1.6 times too small."""
    path = preset(tmp_path, SHAPE.format(family=family, more=more), family)
    words = ["stage=rl", f"model={path}", "cluster=gpu8", "layout.micro_batch_tokens=4096", *layout]
    settings = compose(words)
    (found,) = rehearse(settings, [0])
    parts, planned = found["phases"]["update"]["parts"], memory_of(settings)
    counted = parts["activations"] + parts.get("temporaries", 0)
    assert planned.activations + planned.head == pytest.approx(counted, rel=0.1)


@pytest.mark.parametrize(
    ("model", "cluster", "layers"),
    [
        ("tiny", "local", 3),
        pytest.param("smollm2-135m", "local", 6, marks=pytest.mark.slow),  # 5 s each
        pytest.param("0.6b", "local", 6, marks=pytest.mark.slow),
        pytest.param("0.6b", "gpu8", 6, marks=pytest.mark.slow),
    ],
)
def test_the_instant_plan_is_near_the_rehearsal(model, cluster, layers):
    """Within 10%, fewer layers than the preset's. On CPUs it was up to 28% too small: norms keep more there."""
    settings = compose(
        ["stage=rl", f"model={model}", f"cluster={cluster}", f"model.num_layers={layers}", "model.parameters=none"]
    )
    (found,) = rehearse(settings, [0])
    planned, peak = memory_of(settings), max(phase["peak"] for phase in found["phases"].values())
    assert planned.training - planned.overhead == pytest.approx(peak, rel=0.1)


EXPERT_LAYERS = [
    "stage=rl", "cluster=gpu8", "layout.ep=2", "layout.micro_batch_tokens=4096", "rl.recompute=full",
    "rollout.max_new_tokens=512",
]  # fmt: skip


def test_experts_leave_nothing_on_the_device(tmp_path):
    """Upstream's dispatcher kept every layer's graph until its next forward pass."""
    path = preset(tmp_path, SHAPE.format(family="qwen3_moe", more=EXPERTS), "qwen3_moe")
    (found,) = rehearse(compose([*EXPERT_LAYERS, f"model={path}"]), [0])
    parts = found["phases"]["save"]["parts"]
    left = parts.get("activations", 0) + parts.get("temporaries", 0)
    assert left < 4096 * 512 * 2, "the hidden states of one layer"


def test_faults_of_gpus_are_found(tmp_path):
    """Among them the first that this project had: lengths left on the host."""
    path = config(tmp_path, "model.dtype=bf16", "layout.micro_batch_tokens=512")
    script = ROOT / "tests" / "rehearsal" / "faults_rank.py"
    env = os.environ | {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-O", script, path], env=env, cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr[-3000:]
    said = dict(line.split(": ", 1) for line in ended.stdout.splitlines() if ": " in line)
    assert said["nothing planted"] == "passes"
    assert "torch_attn._varlen_attn.default mixes tensors on ['cpu', 'meta']" in said["bounds_stay_on_the_host"]
    assert "two devices, meta and cpu" in said["host_tensor_in_a_layer"]
    assert "allreduce_.default over NCCL on tensors of ['cpu']" in said["host_tensor_over_nccl"]
    assert said["number_read_in_a_layer"] == "passes 26"  # 13 norms, 2 micro-batches


def test_the_plan_prints_a_rehearsal(tmp_path, capsys):
    words = [f"model={preset(tmp_path)}", "cluster=gpu8", "rl.group_size=16", "model.dtype=bf16", "layout.pp=2"]
    assert cli.main(["stage=plan", *words, "rehearse=true", "plan.ranks=7", "cluster.speed.efficiency=0.5"]) == 0
    out = capsys.readouterr().out
    assert "Rehearsal of rank 7: 2 micro-batches of 8 x 128 tokens" in out
    assert "broadcast over pipeline" in out
    assert "at megatron_patches/training/actor.py:" in out
    assert "tokens/s/GPU; MFU of the update" in out
    assert "rehearse=true" not in out  # in no command that is to be typed
    # Its first step gave NCCL a sum on the host.
    assert "Rehearsal of the warm-up's rank 7: " in out


def test_ranks():
    words = ["stage=rl", "model=32b", "cluster=gpu8", "cluster.nnodes=4"]
    assert ranks_of(compose(words), []) == [0, 16]
    with pytest.raises(UsageError, match=r"plan\.ranks=32: the run has ranks 0 to 31"):
        ranks_of(compose(words), [32])


def test_a_rank_that_is_not_there_is_refused_before_anything_is_printed(capsys):
    words = ["stage=plan", "model=32b", "cluster=gpu8", "cluster.nnodes=4", "rehearse=true", "plan.ranks=32"]
    assert cli.main(words) == 2
    said = capsys.readouterr()
    assert "plan.ranks=32: the run has ranks 0 to 31" in said.err
    assert not said.out


@pytest.mark.parametrize("words", [["stage=rl", "rehearse=true"], ["stage=plan", "plan.ranks=1"]])
def test_a_key_of_rehearsals_that_changes_nothing_is_refused(words, capsys):
    assert cli.main([*words, "model=tiny"]) == 2
    assert "has no effect" in capsys.readouterr().err


QUICK = ("tiny", "local", 1)
CASES = [
    (model, cluster, nodes)
    for model in preset_names("model")
    for cluster in preset_names("cluster")
    for nodes in yaml.safe_load((ROOT / "configs" / "model" / f"{model}.yaml").read_text())["model"]["layouts"]
]


@pytest.mark.parametrize(("model", "cluster", "nodes"), CASES)
def test_every_preset_rehearses_in_about_a_minute_a_rank(model, cluster, nodes):
    if (model, cluster, nodes) != QUICK and "ETR_ALL_PRESETS" not in os.environ:
        pytest.skip("a quarter of an hour for all presets: set ETR_ALL_PRESETS=1")
    settings = compose(["stage=rl", f"model={model}", f"cluster={cluster}", f"cluster.nnodes={nodes}"])
    try:
        check(settings)
    except UsageError as error:
        pytest.skip(str(error))
    planned, limit, peaks = memory_of(settings), settings.cluster.device_memory_gib * 2**30, []
    for rank in rehearse(settings, ranks_of(settings, [])):
        assert rank["processor_seconds"] < 60
        assert rank["phases"]["update"]["flops"] > 0
        peaks.append({name: phase["peak"] for name, phase in rank["phases"].items()})
    if planned.peak < limit:  # the plan warns otherwise
        assert max(max(rank.values()) for rank in peaks) < limit
    if settings.cluster.device == "cuda":
        # While the model is built its weights exist twice, before the optimizer and activations do.
        training = max(peak for rank in peaks for name, peak in rank.items() if name != "build")
        assert planned.training - planned.overhead == pytest.approx(training, rel=0.05)
