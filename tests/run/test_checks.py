"""What a dry run, a plan and a run find out before anything starts, and what files that are no settings or records end in."""

import json

import pytest
from cli import TINY_SHAPE, preset

from pipeline.common.errors import InputError, UsageError
from pipeline.run import cli
from pipeline.run.compose import compose
from pipeline.settings import engine
from pipeline.settings.data import problem_count
from pipeline.sft.engine import accumulation_steps


@pytest.fixture
def call(tmp_path, monkeypatch, capfd):
    """Calls the command line in an empty folder; returns exit code, output and errors."""
    for name in ("SLURM_JOB_ID", "SLURM_NODEID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("def loss(x, config):\n    return x\n\nif True:\n    other = loss\n")
    (tmp_path / "broken.py").write_text("def loss(:\n")
    (tmp_path / "bytes.py").write_bytes(b"\xff\xfe = 1")

    def run(*words):
        model = [] if any(word.startswith("model=") for word in words) else ["model=tiny"]
        code = cli.main([*words, *model, f"runs_dir={tmp_path / 'runs'}"])
        printed = capfd.readouterr()
        return code, printed.out, printed.err

    return run


BOMB = "a0: &a0 [x]\n" + "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 10)}]\n" for n in range(12))
"""A thousand billion values, by aliases."""
WRONG = [
    ("rl", "verify.rewards.corectness=1", 2, "Did you mean verify.rewards=correctness?"),
    ("rl", "verify.rewards.nothing_here:bonus=1", 2, "there is no module nothing_here"),
    ("rl", "verify.rewards.json:bonus=1", 2, "has no function bonus"),
    ("rl", "verify.rewards.pipeline.verify.rewards:correctnes=1", 2, "Did you mean pipeline.verify.rewards:correctness?"),
    ("rl", "verify.rewards.mine.py:bonus=1", 2, "mine.py is a file, and a module is wanted"),
    ("rl", "verify.judge=ftp://node0", 2, "verify.judge=ftp://node0: expected http://host:port"),
    ("rl", "verify.judge=http://node0:8000", 2, "verify.judge_model is missing"),
    ("rl", "algo.import_path=absent.py:loss", 3, "absent.py cannot be read (No such file or directory)"),
    ("rl", "algo.import_path=mine.py:los", 2, "Did you mean"),
    ("rl", "algo.import_path=broken.py:loss", 2, "is not Python"),
    ("rl", "algo.import_path=bytes.py:loss", 2, "is not Python"),
    ("rl", "algo.import_path=pipeline.objectives.nothing:loss", 2, "there is no module pipeline.objectives.nothing"),
    ("rl", "algo.import_path=pipeline.objectives.losses.cispo:cisp", 2, "Did you mean"),
    ("rl", "sft.phases.0.rows=zzz", 2, "sft.phases.0.rows=zzz (from the command line): allowed is sft, sft_mixed"),
    ("rl", "tracking=[wandbx]", 2,
     "tracking.to.0=wandbx (from the command line): allowed is tensorboard, wandb, mlflow, trackio"),
    ("sft", "data.arithmetic.sft_mixed_rows=0", 2, "sft.phases.1.rows=sft_mixed, but data.arithmetic.sft_mixed_rows=0"),
    ("sft", "sft.batch_size=7", 2, "sft.batch_size=7 rows cannot be shared evenly by 2 ranks"),
    ("rl", "data.arithmetic.min_terms=8", 2, "min_terms=8 is above data.arithmetic.max_terms=7"),
    ("rl", "data.arithmetic.max_terms=2", 2, "only 135 have 2 to 2 terms"),
    ("rl", "data.arithmetic.train=100000000000", 2, "only 80339736 have 2 to 7 terms"),
    ("rl", "data.arithmetic.train=1e11", 2, "a whole number"),
    ("evaluate", "evaluate.checkpoint=befor", 2, "Did you mean evaluate.checkpoint=before?"),
    ("evaluate", "evaluate.checkpoint=nowhere/at/all", 3, "there is no such folder"),
    ("export", "export.checkpoint=afte", 2, "Did you mean export.checkpoint=after?"),
    ("all", "export.checkpoint=afte", 2, "Did you mean export.checkpoint=after?"),
    ("bench", "bench.what=nosuch", 2, "Allowed: policy_head, objective"),
    ("bench", "what=verifyer", 2, "Did you mean bench.what=verifier?"),
    ("rollout", "rollout.offline_split=nosuch", 2, "Allowed: train, held_out"),
    ("rl", "rollout.temperature=0", 2, "rollout.temperature=0: training needs responses that differ"),
    ("all", "rollout.temperature=0", 2, "rollout.temperature=0: training needs responses that differ"),
    ("rl", "rl.optimizer.min_lr=1", 2, "rl.optimizer.min_lr=1 is above rl.optimizer.lr=0.0001"),
    ("rl", "model.parameters=5", 2, "model.parameters=5 (from the command line), but the shape has 599104 parameters"),
    ("rl", "rollout.server_address=node0", 2, "expected host:port"),
    ("rl", "rollout.server_urls=[node0:8000]", 2, "expected http://host:port"),
    ("rl", "rollout.server_urls=[http://a:1,http://a:1/]", 2, "names http://a:1/ twice"),
    ("rl", "rollout.mode=serve", 2, "rollout.mode=serve needs rollout.server_urls"),
    ("rl", "model.experts.count=8", 2, "qwen3_moe needs experts"),
    ("rl", "seed=18446744073709551616", 2, "<= 4294967295"),
    ("evaluate", "evaluate.k_of.held_ou=3", 2, "Did you mean evaluate.k_of=held_out?"),
    ("rl", "seed=4294967296", 2, "<= 4294967295"),
    ("rl", "name=" + "n" * 300, 2, "at most 200 bytes"),
    ("rl", "name=a\nb", 2, r"name='a\nb'"),
    ("rl", "name=..", 2, "name=..: a run's name"),
    ("rl", "name=a/b", 2, "name=a/b: a run's name"),
    ("rl", "name= ", 2, "a run's name"),
    ("rl", "sft.phases.².steps=3", 2, "there is no such setting"),
    ("rl", "sft.phases=[&a [*a]]", 2, "lies inside its own anchor"),
    ("rl", "sft.phases=" + "[" * 1200, 2, "nested too deeply"),
]  # fmt: skip


def test_training_with_log_probs_that_a_server_does_not_give_is_refused(call):
    serve = ("rollout.engine=vllm", "rollout.mode=serve", "rollout.server_urls=[http://127.0.0.1:1]", "dry_run=true")
    code, _, err = call("stage=rl", *serve, "rollout.temperature=0.8", "rollout.top_p=0.9")
    assert code == 2
    assert "rollout.temperature=0.8, rollout.top_p=0.9: with rollout.mode=serve" in err
    assert call("stage=evaluate", *serve, "rollout.temperature=0.8")[0] == 0


@pytest.mark.parametrize("stage", ["preprocess", "all"])
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.eval_path.held=a.jsonl", "a.jsonl is given for training (data.path) and for evaluation (held)"),
        ("data.eval_path.a/b=b.jsonl", "an evaluation set's name has letters"),
    ],
)
def test_problem_files_are_checked_by_their_names(call, tmp_path, stage, word, said):
    for dry in ([], ["dry_run=true"]):
        code, _, err = call(f"stage={stage}", "data=math", "data.path=a.jsonl", word, *dry)
        assert code == 2
        assert said in err
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("dry", [True, False], ids=["dry run", "run"])
@pytest.mark.parametrize(("stage", "word", "code", "said"), WRONG, ids=[f"{row[0]} {row[1][:60]!r}" for row in WRONG])
def test_a_mistake_is_told_before_anything_starts(call, tmp_path, stage, word, code, said, dry):
    got, out, err = call(f"stage={stage}", word, *(["dry_run=true"] if dry else []))
    assert got == code, err
    assert said in err
    assert "Traceback" not in err
    assert out == ""
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("stage", "word"),
    [
        ("rl", "algo.import_path=mine.py:loss"),
        ("rl", "algo.import_path=mine.py:other"),
        ("rl", "algo.import_path=pipeline.objectives.losses.cispo:cispo"),
        ("rl", "verify.rewards.json:dumps=1"),
        ("rl", "verify.rewards.pipeline.verify.rewards:correctness=1"),
        ("rl", "verify.rewards.math:sqrt=1"),  # a compiled module cannot be looked into
        ("rollout", "rollout.offline_split=held_out"),
        ("rollout", "rollout.temperature=0"),
        ("evaluate", "evaluate.checkpoint=after"),
        ("plan", "rl.steps=3"),
        ("all", "rl.steps=3"),
    ],
)
def test_what_is_right_passes_the_same_checks(call, stage, word):
    code, out, err = call(f"stage={stage}", word, "dry_run=true")
    assert code == 0, err
    assert "Nothing was run" in out


def test_an_evaluation_set_that_preprocess_made_needs_no_key(call, tmp_path):
    folder = tmp_path / "runs" / "tiny-math" / "preprocess" / "eval"
    words = ["stage=rollout", "data=math", "name=tiny-math", "rollout.offline_split=aime", "dry_run=true"]
    words.append("rollout.max_prompt_tokens=32")
    assert "rollout.offline_split=aime: there is no such" in call(*words)[2]
    folder.mkdir(parents=True)
    (folder / "aime.jsonl").write_text("")
    assert call(*words)[0] == 0


def test_fused_head_and_a_loss_over_sequences(call):
    code, _, err = call("stage=rl", "algo=gspo", "rl.token_head=fused", "dry_run=true")
    assert code == 2
    assert "rl.token_head=fused: algo.loss=gspo mixes the tokens of a sequence" in err


def test_an_own_shape_needs_no_parameter_count(call, tmp_path):
    assert call("stage=rl", f"model={preset(tmp_path)}", "dry_run=true")[0] == 0
    assert (
        call("stage=rl", "model=tiny", "model.num_layers=4", "dry_run=true")[0] == 0
    )  # the preset's count is of another
    counted = preset(tmp_path, TINY_SHAPE.replace("  dtype: fp32", "  dtype: fp32\n  parameters: 127552"), "counted")
    code, _, err = call("stage=rl", f"model={counted}", "dry_run=true")
    assert code == 2
    assert f"model.parameters=127552 (from {counted}), but the shape has 127680" in err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("rl: &a {steps: 3, optimizer: *a}", "lies inside its own anchor"),
        (BOMB, "more than 100,000 values, aliases"),
        ("rl: " + "{a: " * 2000, "is not a YAML preset"),
        ("? [a, b]\n: 3", "is not a YAML preset"),
        ("rl: {steps: 2024-13-45}", "is not a YAML preset"),
        ("defaults: {algo: 3}", "defaults.algo=3 is no preset name"),
        (TINY_SHAPE.replace("layouts: {1: {tp: 2, micro_batch_tokens: 1024}}", "layouts: [1]"), "model.layouts"),
        (TINY_SHAPE.replace("layouts: {1: {tp: 2, micro_batch_tokens: 1024}}", "layouts: {1: 3}"), "model.layouts"),
    ],
    ids=["cyclic", "bomb", "deep", "list as key", "no date", "number as preset", "layouts list", "layout number"],
)
def test_a_preset_file_that_is_none(call, tmp_path, text, said):
    path = preset(tmp_path, text, "odd")
    code, _, err = call("stage=rl", f"model={path}", "dry_run=true")
    assert code == 2, err
    assert said in err
    assert "Traceback" not in err


def test_slurms_numbers_that_are_none(call, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    monkeypatch.setenv("SLURM_NODEID", "first")
    code, _, err = call("stage=rl", "dry_run=true")
    assert code == 2
    assert "SLURM_NODEID='first'" in err


@pytest.mark.parametrize(
    "content", ["[]", "{", "3", '{"config": []}', '{"variants": []}', '{"variants": {"before": 3}}', "\xff"]
)
def test_a_damaged_manifest(call, tmp_path, content):
    path = tmp_path / "runs" / "tiny" / "preprocess" / "manifest.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("latin-1"))
    for stage in ("preprocess", "sft"):  # its own, and an earlier stage's
        code, _, err = call(f"stage={stage}")
        assert code == 3, err
        assert str(path) in err
        assert "Delete it; the stage then runs again." in err


@pytest.mark.parametrize("content", ["[]", "{", '{"config": 3}'])
def test_a_damaged_note_of_a_start(call, tmp_path, content):
    root = tmp_path / "runs" / "tiny"
    manifest = json.dumps({"config": {}, "inputs": {}, "outputs": {}})
    for stage in ("preprocess", "convert", "rl"):
        (root / stage).mkdir(parents=True)
        if stage != "rl":
            (root / stage / "manifest.json").write_text(manifest)
    (root / "checkpoints").mkdir()
    (root / "rl" / "started.json").write_text(content)
    code, _, err = call("stage=rl")
    assert code == 3, err
    assert f"{root / 'rl' / 'started.json'}" in err
    assert "force=true" in err


@pytest.mark.parametrize("content", [b"\xff\xfe", "²".encode(), b"", b"release", b"-3"])
def test_a_tracker_file_that_holds_no_number(call, tmp_path, content):
    root = tmp_path / "runs" / "tiny"
    for stage in ("preprocess", "convert"):
        (root / stage).mkdir(parents=True)
        outputs = {"convert@latest": "x"} if stage == "convert" else {}
        (root / stage / "manifest.json").write_text(json.dumps({"config": {}, "inputs": {}, "outputs": outputs}))
    good, bad = (root / name / "latest_checkpointed_iteration.txt" for name in ("convert", "checkpoints"))
    (root / "convert" / "iter_0000000").mkdir()
    bad.parent.mkdir()
    for first, second in ((content, b"3"), (b"0", content)):  # an earlier stage's, and what RL would continue
        good.write_bytes(first)
        bad.write_bytes(second)
        code, _, err = call("stage=rl")
        assert code == 3, err
        assert str(good if first == content else bad) in err
        assert "is no iteration number" in err
    bad.write_bytes(content)
    code, _, err = call("stage=export", f"export.checkpoint={bad.parent}")
    assert code == 3, err
    assert str(bad) in err


def test_a_missing_or_wrong_tracker_file_is_not_answered_by_advice_to_train_again(call, tmp_path):
    root = tmp_path / "runs" / "tiny"
    for stage, output in (
        ("preprocess", {}),
        ("convert", {"convert@latest": "x"}),
        ("rl", {"checkpoints@latest": "x"}),
    ):
        (root / stage).mkdir(parents=True)
        (root / stage / "manifest.json").write_text(json.dumps({"config": {}, "inputs": {}, "outputs": output}))
    (root / "convert" / "iter_0000000").mkdir()
    (root / "convert" / "latest_checkpointed_iteration.txt").write_text("0")
    (root / "checkpoints" / "iter_0000004").mkdir(parents=True)
    (root / "checkpoints" / "iter_0000012").mkdir()
    for wrong in (None, "99"):
        if wrong is not None:
            (root / "checkpoints" / "latest_checkpointed_iteration.txt").write_text(wrong)
        code, _, err = call("stage=export")
        assert code == 3, err
        assert "echo 12 >" in err
        assert "force=true" not in err


def test_a_stage_that_reads_a_damaged_tracker_file_itself(tmp_path):
    from megatron_patches.model.checkpoint import latest_iteration

    for content in (b"\xff\xfe", "²".encode()):
        (tmp_path / "latest_checkpointed_iteration.txt").write_bytes(content)
        with pytest.raises(InputError, match="has no such iteration"):
            latest_iteration(tmp_path)


def test_a_folder_without_a_tracker_file_is_no_checkpoint(call, tmp_path):
    (tmp_path / "some").mkdir()
    code, _, err = call("stage=export", f"export.checkpoint={tmp_path / 'some'}", "dry_run=true")
    assert code == 3
    assert "holds no latest_checkpointed_iteration.txt" in err


def test_problems_are_counted_exactly():
    def by_hand(terms: int) -> int:
        def more(total: int, left: int) -> int:
            steps = [total + sign * term for term in range(1, 10) for sign in (1, -1)]
            return 1 if not left else sum(more(after, left - 1) for after in steps if 0 <= after <= 19)

        return sum(more(first, terms - 1) for first in range(10))

    assert problem_count(2, 2, 10**9) == by_hand(2) == 135
    assert problem_count(2, 3, 10**9) == by_hand(2) + by_hand(3)
    assert problem_count(3, 4, 10**9) == by_hand(3) + by_hand(4)
    assert problem_count(2, 10**9, 4128) >= 4128  # counting stops early


@pytest.mark.parametrize(("rows", "size"), [(7, 4), (12, 12), (3, 8), (9, 2), (1, 1)])
def test_a_micro_batch_never_exceeds_its_size(rows, size):
    import torch

    shares = torch.arange(rows).tensor_split(accumulation_steps(rows, size))  # as stages/sft.py cuts them
    assert max(len(share) for share in shares) <= size
    assert len(shares) == -(-rows // size)


@pytest.fixture
def machine(monkeypatch):
    """A machine with so many GPUs, with vLLM or without."""

    def make(gpus, vllm):
        monkeypatch.setattr(engine, "gpu_count", lambda: gpus)
        monkeypatch.setattr(engine, "is_installed", lambda: vllm)

    return make


@pytest.mark.parametrize(
    ("words", "gpus", "vllm", "chosen"),
    [
        (["cluster=local"], 0, False, "native"),
        (["cluster=local"], 8, True, "native"),
        (["cluster=gpu8"], 8, True, "vllm"),
        (["cluster=gpu8"], 8, False, "native"),  # run.sh could not install it
        (["cluster=gpu8"], 0, False, "vllm"),  # planned on a laptop for another machine
        (["cluster.device=auto"], 0, True, "native"),
        (["cluster.device=auto"], 2, True, "vllm"),
        (["cluster.device=auto"], 1, True, "native"),  # two ranks and one GPU: they run on the CPU
        (["layout.pp=2", "layout.tp=1"], 0, False, "vllm"),
        (["rollout.engine=native"], 8, True, "native"),
        (["rollout.engine=vllm"], 0, False, "vllm"),
    ],
)
def test_the_plan_and_the_run_ask_the_same_function(machine, capfd, words, gpus, vllm, chosen):
    machine(gpus, vllm)
    from megatron_patches.engines import choose

    assert choose.chosen_engine is engine.chosen_engine
    words = ["stage=rl", "model=tiny", "model.num_layers=4", "rl.group_size=16", "dry_run=true", *words]
    assert engine.chosen_engine(compose(words)) == chosen
    assert cli.main(words) == 0, capfd.readouterr().err
    assert f"Rollout  {chosen} engine (" in capfd.readouterr().out


def test_layers_that_cannot_be_built_are_told_at_the_start(monkeypatch, call):
    code, _, err = call("stage=convert", "model.backend=te")
    assert code == 2
    assert (
        "model.backend=te needs Transformer Engine on GPUs (docs/cluster.md), and the ranks run on the CPU. Use model"
        in err
    )
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"needs Transformer Engine on GPUs .*, and it is not installed"):
        engine.check_backend(compose(["stage=rl", "model=tiny", "cluster.device=cuda", "model.backend=te"]))


def test_an_engine_that_is_not_installed_is_told_at_the_start(machine, call):
    machine(0, False)
    code, _, err = call("stage=rl", "rollout.engine=vllm")
    assert code == 2
    assert "rollout.engine=vllm, but vLLM is not installed" in err
    with pytest.raises(UsageError, match=r"means vllm with layout.pp=2, but vLLM is not installed"):
        engine.check_installed(compose(["stage=rl", "model=tiny", "layout.pp=2"]))
