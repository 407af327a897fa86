"""Composition of the settings, and what a wrong command line is told."""

import pytest
import yaml
from cli import TINY_SHAPE, preset

from pipeline.common.errors import InputError, UsageError
from pipeline.run.compose import compose
from pipeline.run.door import STAGES, preset_names
from pipeline.settings import Settings


@pytest.fixture
def mini(tmp_path, monkeypatch):
    """`stage=rl model=<a preset of this test>`, as words."""
    for name in ("SLURM_JOB_ID", "SLURM_NODEID", "ETR_FOLDER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    return ["stage=rl", f"model={preset(tmp_path)}"]


def refusal(words):
    with pytest.raises(UsageError) as caught:
        compose(words)
    return str(caught.value)


def test_later_sources_win(tmp_path, mini):
    preset(tmp_path, "rl: {steps: 7, group_size: 16}\nalgo: {alpha: 0.5}\n", "slow")
    settings = compose([*mini, f"algo={tmp_path / 'slow.yaml'}", "rl.steps=9"])
    assert settings.rl.steps == 9  # command line over algo preset
    assert settings.rl.group_size == 16  # algo preset over model preset
    assert settings.rl.prompts_per_step == 4  # model preset over default
    assert settings.rl.epochs == 1  # default
    assert settings.algo.alpha == 0.5
    assert settings.cluster.devices_per_node == 2  # from the preset that `defaults` names


def test_values_become_what_their_types_say(mini):
    settings = compose(
        [*mini, "rl.optimizer.lr=1e-6", "algo.k=none", "algo.dual_clip=3", "algo.is_cap=none", "rl.recompute=true",
         "data.path=a.jsonl,b.parquet", "data.eval_path.aime=c.jsonl", "rollout.stop=", "sft.phases.0.steps=12",
         "layout.vpp=none", "verify.rewards.format=0.1", "seed=3"]
    )  # fmt: skip
    assert settings.rl.optimizer.lr == 1e-6
    assert settings.algo.k == "none"  # a choice there, not "no value"
    assert settings.algo.dual_clip == 3
    assert settings.algo.is_cap is None
    assert settings.rl.recompute == "full"  # as earlier configurations say it
    assert [path.rpartition("/")[2] for path in settings.data.path] == ["a.jsonl", "b.parquet"]
    assert settings.rollout.stop == []
    assert settings.sft.phases[0].steps == 12
    assert settings.sft.phases[0].rows == "sft"  # the rest of the default's entry stays
    assert settings.verify.rewards == {"correctness": 1.0, "format": 0.1}
    assert compose(["stage=bench", "what=verifier"]).bench.what == "verifier"


def test_names_of_the_users_own_may_hold_dots(tmp_path, mini):
    words = [
        "verify.rewards.my.module:brief=0.1",
        "data.eval_path.math.500=x.jsonl",
        "compare.arms.eps0.3=algo.eps_low=0.3",
    ]
    settings = compose([*mini, *words[:2]])
    assert settings.verify.rewards == {"correctness": 1.0, "my.module:brief": 0.1}
    assert list(settings.data.eval_path) == ["math.500"]
    assert compose(["stage=compare", mini[1], words[2]]).compare.arms == {"eps0.3": "algo.eps_low=0.3"}
    at_once = compose([*mini, "verify.rewards={my.module:brief: 0.1}"])
    assert at_once.verify.rewards == {"correctness": 1.0, "my.module:brief": 0.1}
    path = preset(tmp_path, TINY_SHAPE + "verify: {rewards: {my.module:brief: 0.2}}\n", "dotted")
    assert compose(["stage=rl", f"model={path}"]).verify.rewards["my.module:brief"] == 0.2
    assert "verify.rewards=my.modul" in refusal([*mini, "verify.rewards.my.modul=1"])  # a module without its function
    assert "no such setting" in refusal([*mini, "model.layouts.1.tp.x=2"])


def test_the_resolved_settings_survive_yaml(mini):
    settings = compose([*mini, "data.eval_path.a=x.jsonl"])
    again = Settings.model_validate(yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json"))))
    assert again == settings


def test_paths_as_typed_are_relative_to_where_they_were_typed(tmp_path, mini):
    settings = compose([*mini, "data.path=mine.jsonl", "evaluate.checkpoint=before"])
    assert settings.data.path == [str(tmp_path / "mine.jsonl")]
    assert settings.evaluate.checkpoint == "before"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("algo.apha=0.3", ["algo.apha", "Did you mean algo.alpha?", "eps_low"]),
        ("rl.optimiser.lr=1", ["Did you mean rl.optimizer.lr?"]),
        ("steps=3", ["Did you mean rl.steps?"]),
        ("rl.steps=abc", ["rl.steps=abc", "the command line", "whole number >= 1"]),
        ("algo.eps_low=1.5", ["algo.eps_low=1.5", "> 0 and < 1"]),
        ("algo.entropy_coef=nan", ["algo.entropy_coef=nan", "a number"]),
        ("algo.normalize=sdt", ["algo.normalize=sdt", "std, none, loo"]),
        ("rl.recompute=maybe", ["rl.recompute=maybe", "none, selective, full"]),
        ("rl.steps=", ["rl.steps= needs a value"]),
        ("rl=3", ["rl is a section"]),
        ("rl.optimizer=3", ["rl.optimizer is a section"]),
        ("layout.tp=0", ["layout.tp=0", ">= 1"]),
        ("sft.phases.3.steps=1", ["sft.phases has 1 entries"]),
        ("seed=-1", ["seed=-1", ">= 0"]),
        ("name=a/b", ["name=a/b", "one folder name"]),
        ("rl.steps", ["expected key=value"]),
        ("algo=grop", ["algo=grop", "no such algo", "Allowed"]),
    ],
)
def test_a_wrong_word_is_told_the_key_the_value_and_what_is_allowed(mini, word, said):
    text = refusal([*mini, word])
    for part in said:
        assert part in text, text


def test_several_wrong_values_are_told_at_once(mini):
    text = refusal([*mini, "rl.steps=0", "algo.h=cubic"])
    assert "rl.steps=0" in text
    assert "linear, sqrt, tanh" in text


def test_wrong_names_of_stage_and_model(mini):
    assert "Did you mean stage=rollout?" in refusal(["stage=rolout", mini[1]])
    assert "Did you mean model=8b?" in refusal(["stage=rl", "model=8bb"])
    assert "model= is missing" in refusal(["stage=rl"])
    assert "stage= is missing" in refusal([mini[1]])
    assert "Did you mean stage=rl?" in refusal(["rl", mini[1]])


def test_of_a_key_given_twice_the_last_counts(mini):
    """A wrapper that ends in "$@" has defaults, which its user must be able to change."""
    assert compose([*mini, "seed=1", "seed=2"]).seed == 2
    assert compose(["stage=bench", "what=step", "bench.what=verifier"]).bench.what == "verifier"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model: {num_layer: 3}", "num_layer"),
        ("rl: {steps: 1}\nrl: {steps: 2}", "given twice"),
        ("rl: {steps: 1, steps: 2}", "given twice"),
        ("optim: {lr: 1}", "optim"),
        ("rl: 3", "rl is a section"),
        ("[1, 2]", "sections"),
        ("a: [", "not a YAML preset"),
        ("defaults: {model: tiny}", "defaults.model"),
    ],
)
def test_a_wrong_preset_file_is_named(tmp_path, mini, text, said):
    path = preset(tmp_path, text, "broken")
    message = refusal(["stage=rl", f"model={path}"])
    assert str(path) in message
    assert said in message


def test_a_wrong_value_in_a_preset_says_where_it_stands(tmp_path, mini):
    path = preset(tmp_path, TINY_SHAPE.replace("num_layers: 4", "num_layers: four"), "wordy")
    message = refusal(["stage=rl", f"model={path}"])
    assert "model.num_layers=four" in message
    assert "wordy.yaml" in message


def test_a_missing_preset_file_is_an_input_error(mini):
    with pytest.raises(InputError, match=r"none\.yaml"):
        compose(["stage=rl", "model=none.yaml"])


def test_the_name_says_what_differs_from_the_preset(tmp_path, mini):
    assert compose(mini).name == "mini"
    assert compose([*mini, "seed=2"]).name == "mini-seed2"
    assert compose([*mini, "rl.steps=3"]).name == "mini"
    assert compose([*mini, f"algo={preset(tmp_path, '{}', 'other')}", "seed=1"]).name == "mini-other-seed1"
    assert compose([*mini, "name=mine"]).name == "mine"


def test_the_layout_follows_the_number_of_nodes(tmp_path, mini):
    text = TINY_SHAPE.replace("layouts: {1: {tp: 2,", "layouts: {4: {tp: 4, pp: 2}, 1: {tp: 2,")
    model = f"model={preset(tmp_path, text, 'nodes')}"
    for nodes, tp in ((1, 2), (3, 2), (4, 4), (9, 4)):
        assert compose(["stage=rl", model, f"cluster.nnodes={nodes}"]).layout.tp == tp
    settings = compose(["stage=rl", model, "cluster.nnodes=4", "layout.tp=1"])
    assert (settings.layout.tp, settings.layout.pp) == (1, 2)


def test_slurm_fills_the_cluster_in_and_the_command_line_wins(mini, monkeypatch):
    for name, value in {
        "SLURM_JOB_ID": "7", "SLURM_NODEID": "2", "SLURM_NNODES": "4", "SLURM_GPUS_ON_NODE": "4",
        "SLURM_JOB_NODELIST": "gpu[007-009,12]",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    cluster = compose([*mini, "cluster=gpu8"]).cluster
    assert (cluster.nnodes, cluster.node_rank, cluster.master_addr, cluster.devices_per_node) == (4, 2, "gpu007", 4)
    cluster = compose([*mini, "cluster=gpu8", "cluster.master_addr=other", "cluster.node_rank=0"]).cluster
    assert (cluster.master_addr, cluster.node_rank) == ("other", 0)
    assert compose(mini).cluster.devices_per_node == 2  # a CPU preset does not count GPUs
    monkeypatch.delenv("SLURM_NODEID")  # the batch script itself, before srun
    assert compose(mini).cluster.nnodes == 1


def test_every_algo_and_data_preset_composes(mini):
    for group in ("algo", "data"):
        for name in preset_names(group):
            assert getattr(compose([*mini, f"{group}={name}"]), f"{group}_name") == name


def test_the_list_of_stages_and_the_catalog_agree():
    from pipeline.run.catalog import ORDER
    from pipeline.run.catalog import STAGES as CATALOG

    assert set(CATALOG) == set(STAGES) - {"all", "plan", "test"}
    assert {name.partition(":")[0] for name in ORDER} <= set(CATALOG)
