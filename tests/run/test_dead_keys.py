"""A key of the user's that changes nothing in the run is refused, with the reason and what would make it count."""

import itertools
import re
import shlex

import pytest
from cli import ROOT, TINY_SHAPE, preset

from pipeline.common.errors import UsageError
from pipeline.run import cli
from pipeline.run.compose import compose
from pipeline.run.door import preset_names


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder to type in, on a machine without SLURM and GPUs."""
    for name in ("SLURM_JOB_ID", "SLURM_NODEID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    (tmp_path / "a.jsonl").write_text("")
    return tmp_path


ARITHMETIC = "data.source=arithmetic reads no files"
NATIVE = "only vLLM reads it, and rollout.engine=auto means native on CPU"
STATIC = "algo.loss=grpo uses static bounds"
ONE_GPU = ["cluster=gpu1", "layout.tp=1"]
VLLM = ["rollout.engine=vllm", "layout.rollout_tp=1"]
SERVE = ["rollout.engine=vllm", "rollout.mode=serve", "rollout.server_urls=[http://a:1,http://b:1]"]
MATH = ["data=math", "data.path=a.jsonl"]

DEAD = [
    # The embedded problems
    (["data.path=none.jsonl"], "data.path=", ARITHMETIC),
    (["data.eval_path.aime=none.jsonl"], "data.eval_path.aime=", ARITHMETIC),
    (["data.sft_path=none.jsonl"], "data.sft_path=", ARITHMETIC),
    (["data.split=train"], "data.split=train", ARITHMETIC),
    (["data.eval_split=test"], "data.eval_split=test", ARITHMETIC),
    (["data.limit=5"], "data.limit=5", ARITHMETIC),
    (["data.columns.problem=question"], "data.columns.problem=question", ARITHMETIC),
    (["data.vocab_size=400"], "data.vocab_size=400", ARITHMETIC),
    (["data.clean.decontaminate_ngram=8"], "data.clean.decontaminate_ngram=8", ARITHMETIC),
    (["data.instruction=Think."], "data.instruction=Think.", "data.template=bare shows the problem alone"),
    (["sft.phases.1.rows=sft", "data.arithmetic.slip_share=0.2"], "slip_share=0.2", "no warm-up phase uses the rows sft_mixed"),
    # Files
    ([*MATH, "data.arithmetic.train=9000"], "data.arithmetic.train=9000", "data.source=files generates no problems"),
    ([*MATH, "data.vocab_size=400"], "data.vocab_size=400", "data.tokenizer=model trains no tokenizer"),
    ([*MATH, "data.clean.decontaminate_common=2"], "decontaminate_common=2", "no evaluation set is given"),
    ([*MATH, "data.eval_split=test"], "data.eval_split=test", "no evaluation set is given"),
    ([*MATH, "data.split=train"], "data.split=train", "only folders have splits"),
    ([*MATH, "data.eval_path.a=a.jsonl", "data.eval_split=dev"], "data.eval_split=dev", "only folders have splits"),
    ([*MATH, "data.sft_path=a.jsonl", "sft.enabled=false"], "data.sft_path=", "sft.enabled=false"),
    # The engine
    (["rollout.mode=standalone"], "rollout.mode=standalone", NATIVE),
    (["rollout.server_address=node0:1"], "rollout.server_address=node0:1", NATIVE),
    (["rollout.server_ranks=2"], "rollout.server_ranks=2", NATIVE),
    (["rollout.gpu_memory_share=0.5"], "rollout.gpu_memory_share=0.5", NATIVE),
    (["rollout.sync_bucket_mib=64"], "rollout.sync_bucket_mib=64", NATIVE),
    (["layout.rollout_tp=2"], "layout.rollout_tp=2", NATIVE),
    (["layout.rollout_tp=2", "rollout.engine=native"], "layout.rollout_tp=2", "and rollout.engine=native"),
    (["rollout.server_urls=[http://a:1]"], "rollout.server_urls=", NATIVE),
    ([*VLLM, "rollout.server_urls=[http://a:1]"], "rollout.server_urls=", "rollout.mode=colocated has no servers"),
    ([*VLLM, "rollout.mode=standalone", "rollout.server_urls=[http://a:1]"], "server_urls=", "come to rollout.server_address"),
    ([*SERVE, "rollout.server_ranks=2"], "rollout.server_ranks=2", "decided where the servers are started"),
    ([*SERVE, "rollout.kv_memory_gib=2"], "rollout.kv_memory_gib=2", "decided where the servers are started"),
    ([*SERVE, "rl.offload=optimizer"], "rl.offload=optimizer", "rollout.mode=serve generates on other devices"),
    ([*VLLM, "rollout.server_ranks=2"], "rollout.server_ranks=2", "rollout.mode=colocated has no servers"),
    ([*VLLM, "rollout.gpu_memory_share=0.5"], "rollout.gpu_memory_share=0.5", "vLLM runs on the CPU"),
    ([*VLLM, *ONE_GPU, "rollout.kv_memory_gib=4"], "rollout.kv_memory_gib=4", "takes rollout.gpu_memory_share"),
    (["rollout.top_p=0.9", "rollout.temperature=0.7", "rollout.gap_limit=2"], "rollout.gap_limit=2", "temperature=1 alone"),
    (["rollout.temperature=0", "rollout.top_k=5"], "rollout.top_k=5", "rollout.temperature=0 is greedy"),
    # The objective
    (["algo=grpo", "algo.alpha=0.5"], "algo.alpha=0.5", STATIC),
    (["algo=grpo", "algo.beta=0.5"], "algo.beta=0.5", STATIC),
    (["algo=grpo", "algo.h=sqrt"], "algo.h=sqrt", STATIC),
    (["algo=grpo", "algo.k=std"], "algo.k=std", STATIC),
    (["algo=grpo", "algo.scale_min=0.5"], "algo.scale_min=0.5", STATIC),
    (["algo=grpo", "algo.eps_low_max=0.5"], "algo.eps_low_max=0.5", STATIC),
    (["algo=dapo", "algo.scale_max=2"], "algo.scale_max=2", "algo.loss=dapo uses static bounds"),
    (["algo=dr_grpo", "algo.alpha=0.1"], "algo.alpha=0.1", "algo.loss=dr_grpo uses static bounds"),
    (["algo.alpha=0", "algo.h=sqrt"], "algo.h=sqrt", "algo.alpha=0 means no micro term"),
    (["algo.beta=0", "algo.k=std"], "algo.k=std", "algo.beta=0 means no macro term"),
    (["algo.k=none", "algo.beta=0.5"], "algo.beta=0.5", "algo.k=none means no macro term"),
    (["algo.alpha=0", "algo.beta=0", "algo.scale_max=3"], "algo.scale_max=3", "the bounds are not scaled"),
    (["algo=gspo", "algo.eps_low=0.1"], "algo.eps_low=0.1", "algo.loss=gspo has its own bounds"),
    (["algo=gspo", "algo.h=tanh"], "algo.h=tanh", "algo.alpha=0 means no micro term"),
    (["algo=cispo", "algo.eps_high=0.3"], "algo.eps_high=0.3", "algo.loss=cispo has its own bounds"),
    (["algo=cispo", "algo.dual_clip=3"], "algo.dual_clip=3", "algo.loss=cispo does not clip the surrogate"),
    (["algo.cispo_eps_high=4"], "algo.cispo_eps_high=4", "algo.loss=etr does not read it"),
    (["algo=cispo", "algo.gspo_eps_low=0.1"], "algo.gspo_eps_low=0.1", "algo.loss=cispo does not read it"),
    (["algo=grpo", "algo.elastic_side=positive"], "algo.elastic_side=positive", STATIC),
    (["algo.alpha=0", "algo.beta=0", "algo.elastic_side=negative"], "algo.elastic_side=negative", "no bounds are elastic"),
    (["algo=adpo", "algo.alpha=0.5"], "algo.alpha=0.5", "algo.loss=adpo has its own bounds"),
    (["algo=fac", "algo.scale_max=2"], "algo.scale_max=2", "algo.loss=fac has its own bounds"),
    (["algo.adpo_bonus=0.2"], "algo.adpo_bonus=0.2", "algo.loss=etr does not read it"),
    (["algo=adpo", "algo.fac_eps_max=0.5"], "algo.fac_eps_max=0.5", "algo.loss=adpo does not read it"),
    (["rl.counterfactual=true", "algo.bapo_target=0.4"], "algo.bapo_target=0.4", "algo.loss=etr does not read it"),
    (["algo=sapo", "algo.eps_high=0.3"], "algo.eps_high=0.3", "algo.loss=sapo has a gate and no bounds"),
    (["algo=abc_grpo", "algo.dual_clip=3"], "algo.dual_clip=3", "algo.loss=abc_grpo does not clip the surrogate"),
    (["rl.counterfactual=true", "rl.minibatches=1", "rl.epochs=1"], "rl.counterfactual=true", "every ratio is 1"),
    (["algo.kl=k1"], "algo.kl=k1", "algo.kl_coef=0 means no KL term"),
    (["algo.is_weight=off", "algo.is_cap=2"], "algo.is_cap=2", "algo.is_weight=off"),
    (["algo.is_weight=off", "algo.is_form=icepop"], "algo.is_form=icepop", "algo.is_weight=off"),
    (["algo.is_form=token_mis", "algo.is_floor=0.2"], "algo.is_floor=0.2", "algo.is_form=token_mis has no lower limit"),
    (["rl.old_logprobs=engine", "algo.is_form=icepop"], "algo.is_form=icepop", "makes every importance weight 1"),
    (["algo.import_path=mine.py:loss", "algo.loss=grpo"], "algo.loss=grpo", "algo.import_path="),
    # Training
    (["sft.enabled=false", "sft.batch_size=8"], "sft.batch_size=8", "sft.enabled=false"),
    (["sft.enabled=false", "sft.phases.0.lr=1e-4"], "sft.phases.0.lr=0.0001", "sft.enabled=false"),
    (["rl.optimizer.decay=constant", "rl.optimizer.min_lr=1e-6"], "rl.optimizer.min_lr=1e-06", "decay=constant"),
    (["rl.recompute_modules=mlp"], "rl.recompute_modules=mlp", "rl.recompute=none names no parts"),
    (["rl.recompute=selective", "rl.recompute_layers=2"], "rl.recompute_layers=2", "runs no whole layers again"),
    (["rl.overlap_grad_reduce=true", "rl.overlap_param_gather=true"], "rl.overlap_param_gather=true", "none gathers weights"),
    ([*VLLM, "rollout.mode=standalone", "rl.offload=optimizer"], "rl.offload=optimizer", "generates on other devices"),
    (["rl.dynamic_sampling_rounds=2"], "rl.dynamic_sampling_rounds=2", "algo.dynamic_sampling=false"),
    (["rl.eval_every=50", "rl.steps=10"], "rl.eval_every=50", "above rl.steps=10"),
    (["rollout.partial_tokens=9000"], "rollout.partial_tokens=9000", "ends every response"),
    (["rl.async_depth=3", "rl.steps=3"], "rl.async_depth=3", "no batch of rl.steps=3 can be that old"),
    (["verify.overlong_buffer=0.5"], "verify.overlong_buffer=0.5", "verify.rewards does not have overlong"),
    (["verify.judge_model=m"], "verify.judge_model=m", "verify.judge names no server"),
    (["verify.judge_timeout_s=3"], "verify.judge_timeout_s=3", "verify.judge names no server"),
    (["report.audit_rows=0", "report.peer_python=a/python"], "report.peer_python=", "report.audit_rows=0 makes no audit"),
    # Model and machines
    (["model.rope.factor=4"], "model.rope.factor=4", "model.rope.scaling=none"),
    (["model.rope.original_max_position_embeddings=64"], "original_max_position_embeddings=64", "model.rope.scaling=none"),
    (["model.experts.per_token=2"], "model.experts.per_token=2", "a dense model"),
    (["cluster.device=cpu", "model.backend=local"], "model.backend=local", "layers on the CPU are always local"),
    (["model.path=a", "model.init_std=0.1"], "model.init_std=0.1", "the weights come from model.path"),
    (["model.layouts.4.tp=2"], "model.layouts.4.tp=2", "cluster.nnodes=1 uses another entry"),
    (["cluster.master_port=30000"], "cluster.master_port=30000", "a single node"),
    # Stages
    (["bench.repeats=9"], "bench.repeats=9", "only stage=bench reads it"),
    (["stage=all", "evaluate.checkpoint=before"], "evaluate.checkpoint=before", "evaluates before and after"),
    (["stage=all", "rollout.offline_group_size=4"], "rollout.offline_group_size=4", "does not include stage=rollout"),
    (["stage=bench", "bench.rows=9"], "bench.rows=9", "what=policy_head reads only bench.repeats"),
    (["stage=bench", "rl.steps=9"], "rl.steps=9", "what=policy_head reads only bench.repeats"),
    (["stage=bench", "what=verifier", "bench.vocab=9"], "bench.vocab=9", "what=verifier reads only bench.repeats"),
    (["stage=bench", "what=objective", "bench.repeats=3"], "bench.repeats=3", "at least 5 repetitions"),
    (["stage=bench", "force=true"], "force=true", "stage=bench always runs"),
    (["compare.seeds=9"], "compare.seeds=9", "only stage=compare reads it"),
    (["step=3"], "replay.step=3", "only stage=replay reads it"),
    (["rl.export_every=41", "rl.steps=40"], "rl.export_every=41", "above rl.steps=40, so no step exports"),
    (["stage=compare", "evaluate.checkpoint=before"], "evaluate.checkpoint=before", "evaluates before and after"),
    (["stage=doctor", "seed=3"], "seed=3", "reads no settings"),
    (["stage=doctor", "check=gpu", "cluster.nnodes=2"], "cluster.nnodes=2", "reads no settings"),
    (["stage=doctor", "check=cluster", "rl.steps=2"], "rl.steps=2", "reads only cluster.*"),
    (["doctor.check=gpu"], "doctor.check=gpu", "only stage=doctor reads it"),
    (["stage=test", "dry_run=true"], "dry_run=true", "reads no settings"),
]  # fmt: skip


def line(words):
    stage = [] if any(word.startswith("stage=") for word in words) else ["stage=rl"]
    return [*stage, "model=tiny", *words]


@pytest.mark.parametrize(
    ("words", "key", "why"), DEAD, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_a_key_without_effect_is_refused(capsys, words, key, why):
    assert cli.main(line(words)) == 2
    err = capsys.readouterr().err
    assert f"{key}" in err, err
    assert re.search(rf"{re.escape(key)}\S* has no effect: .*{re.escape(why)}", err), err
    assert re.search(r"(, or remove the key|Remove the key)\.$", err.strip()), err


def test_the_message_is_short_and_says_what_to_do(capsys):
    cli.main(["stage=rl", "model=tiny", "algo=grpo", "algo.alpha=0.5"])
    assert capsys.readouterr().err == (
        "algo.alpha=0.5 has no effect: algo.loss=grpo uses static bounds. Use algo=etr, or remove the key.\n"
    )


def test_every_dead_key_is_told_at_once():
    with pytest.raises(UsageError) as caught:
        compose(["stage=rl", "model=tiny", "algo=grpo", "algo.alpha=0.5", "data.limit=3", "algo.kl=k1"])
    assert [text.partition("=")[0] for text in str(caught.value).splitlines()] == [
        "algo.alpha",
        "algo.kl",
        "data.limit",
    ]


@pytest.mark.parametrize(
    ("text", "words", "key"),
    [
        ("defaults: {algo: grpo}\nalgo: {alpha: 0.5}", [], "algo.alpha=0.5"),
        ("sft: {enabled: false, batch_size: 8}", [], "sft.batch_size=8"),
        ("data: {source: arithmetic, path: [x.jsonl]}", [], "data.path=x.jsonl"),
        ("rollout: {engine: native, sync_bucket_mib: 9}", [], "rollout.sync_bucket_mib=9"),
    ],
)
def test_the_users_preset_file_is_asked_as_well(folder, text, words, key):
    shape = TINY_SHAPE.replace("defaults: {cluster: local}", "" if "defaults" in text else "defaults: {cluster: local}")
    shape = shape.replace("rollout: {max_prompt_tokens: 64, max_new_tokens: 64}\n", "")
    with pytest.raises(UsageError) as caught:
        compose(["stage=rl", f"model={preset(folder, shape + text, 'own')}", "cluster=local", *words])
    assert f"{key} (from {folder / 'own.yaml'}) has no effect" in str(caught.value)


def test_the_command_line_may_turn_off_what_a_file_configures(folder):
    text = TINY_SHAPE.replace("rl: {", "rl: {eval_every: 20, ")
    text += "sft: {batch_size: 8}\ndata: {path: [x.jsonl]}\nalgo: {h: sqrt}\n"
    model = f"model={preset(folder, text, 'own')}"
    compose(["stage=rl", model, "sft.enabled=false", "data=arithmetic", "algo=grpo", "rl.steps=10"])
    (folder / "mine.yaml").write_text("algo: {loss: grpo}\nrollout: {sync_bucket_mib: 9}\n")
    with pytest.raises(
        UsageError
    ) as caught:  # another file may turn off what the model's file configures, as a key may
        compose(["stage=rl", model, f"algo={folder / 'mine.yaml'}", "rl.steps=10", "sft.enabled=false"])
    assert [line.split("=")[0] for line in str(caught.value).splitlines()] == ["rollout.sync_bucket_mib"]
    with pytest.raises(UsageError, match=r"algo\.alpha=0\.5 has no effect"):  # typed, it is always a mistake
        compose(["stage=rl", model, "algo=grpo", "algo.alpha=0.5"])


def test_the_users_file_wins_over_the_presets_that_it_names(folder):
    text = TINY_SHAPE.replace("defaults: {cluster: local}", "defaults: {cluster: local, algo: grpo, data: math}")
    path = preset(folder, text + "algo: {eps_high: 0.5}\n", "own")
    settings = compose(["stage=rl", f"model={path}"])
    assert settings.algo.eps_high == 0.5  # grpo.yaml says 0.2
    assert settings.rollout.max_prompt_tokens == 64  # math.yaml says 1024
    assert compose(["stage=rl", f"model={path}", "data=math"]).rollout.max_prompt_tokens == 1024  # asked for


NEUTRAL = [
    ["algo=grpo", "algo.alpha=0", "algo.beta=0"],
    ["algo.k=none", "algo.beta=0"],
    ["algo.is_weight=off", "algo.is_cap=none"],
    ["algo.is_form=icepop", "algo.is_floor=0.2"],
    ["algo.alpha=0", "algo.beta=0", "algo.scale_min=2"],  # above 1 it scales even an inelastic region
    ["algo.import_path=mine.py:loss", "algo.alpha=0", "algo.h=sqrt", "algo.gspo_eps_low=0.1"],  # a loss may read anything
    ["cluster.nnodes=1", "cluster.master_addr=node0", "cluster.node_rank=0"],  # a job script that counts its nodes
    ["rollout.gap_limit=1.2"],  # the native engine's gap is checked too
    ["verify.rewards.mine:bonus=1", "verify.overlong_buffer=0.5"],  # a reward may read it
    ["verify.judge=node0:8000", "verify.judge_model=m", "verify.judge_concurrent=4"],
    ["data=math", "data.path=folder", "data.split=train"],
    ["data=math", "data.path=a.jsonl", "data.tokenizer=sentencepiece", "data.vocab_size=400"],
    ["rollout.engine=vllm", "rollout.mode=standalone", "rollout.server_ranks=2", "rollout.kv_memory_gib=2"],
    [*SERVE, "rollout.sync_bucket_mib=64", "rollout.max_concurrent=64", "cluster.interface=eth0"],
    ["stage=evaluate", "evaluate.checkpoint=before", "rl.steps=3", "export.dtype=fp32"],  # one line for every stage
    ["stage=all", "rollout.offline_group_size=4", "rl.min_pass_rate=0"],
    ["rl.eval_every=10", "rl.steps=10"],
    ["stage=bench", "what=step", "rl.steps=3", "bench.repeats=2"],
    ["stage=doctor", "name=here"],
    ["stage=doctor", "check=cluster", "cluster.nnodes=2", "cluster.speed.network_gb_s=25"],
    ["stage=replay", "step=3", "rl.export_every=4"],
    ["stage=compare", "rl.dynamic_sampling_rounds=6", "algo.gspo_eps_low=0.1"],  # its arms say what these change
]  # fmt: skip


@pytest.mark.parametrize("words", NEUTRAL, ids=" ".join)
def test_a_key_with_an_effect_is_accepted(words):
    compose(line(words))


def test_a_comparison_drops_a_key_in_the_arms_that_do_not_read_it():
    from pipeline.run.arms import Arm, check_effects, effective

    shared = ["model=tiny", "rl.dynamic_sampling_rounds=6", "rl.steps=3"]
    arms = [Arm("etr", ["algo=etr"]), Arm("dapo", ["algo=dapo"]), Arm("flat", ["algo=grpo", "rl.group_size=4"])]
    check_effects(shared, arms)
    assert effective("rl", shared, arms[0].words) == ["model=tiny", "rl.steps=3"]
    assert effective("rl", shared, arms[1].words) == shared
    assert effective("preprocess", shared, []) == ["model=tiny", "rl.steps=3"]
    with pytest.raises(UsageError, match=r"rl\.dynamic_sampling_rounds=6 has no effect"):
        check_effects(shared, [arms[0], arms[2]])
    with pytest.raises(UsageError, match=r"compare\.arms\.flat: algo\.alpha=0\.5 has no effect"):
        check_effects(shared, [*arms[:2], Arm("flat", ["algo=grpo", "algo.alpha=0.5"])])


def documented():
    """Every command line of the README, the docs and the usage, continued lines joined."""
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "pipeline" / "run" / "door.py"]:
        text = path.read_text().replace("\\\n", " ")
        for found in re.findall(r"bash run\.sh (stage=(?:(?!&&|;|\||`|\"|#|<|\n).)*)", text):
            words = [word for word in shlex.split(found) if "..." not in word and "$" not in word]
            of_tests = any(word.startswith("tests=") for word in words)  # of run.sh, and no setting
            if any(re.match("stage=.", word) for word in words) and not of_tests:
                yield pytest.param(words, id=f"{path.name}: {' '.join(words)[:100]}")


LINES = list(documented())


def test_the_documented_lines_are_found():
    assert len(LINES) > 10


@pytest.mark.parametrize("words", LINES)
def test_documented_lines_compose(folder, words):
    (folder / "my_losses.py").write_text("def soft_clip(): ...")
    words = [word.replace("node_rank=k", "node_rank=0") for word in words]
    words = ["model=8b" if word.startswith("model=/") else word for word in words]  # the reader's folder
    model = [] if any(word.startswith("model=") for word in words) else ["model=8b"]
    compose([*words, *model])


@pytest.mark.parametrize("cluster", preset_names("cluster"))
def test_all_presets_compose_together(cluster):
    """Every model with every algorithm and data set, each time with one of the clusters, in turn."""
    clusters, models, algos, data_sets = (preset_names(group) for group in ("cluster", "model", "algo", "data"))
    for i, (model, algo, data) in enumerate(itertools.product(models, algos, data_sets)):
        if clusters[i % len(clusters)] != cluster:
            continue
        compose(["stage=all", f"model={model}", f"algo={algo}", f"data={data}", f"cluster={cluster}"])
