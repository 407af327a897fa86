"""`model=<folder>`: a Hugging Face folder in the place of a preset."""

import json

import pytest

from pipeline.common.errors import InputError
from pipeline.run import cli
from pipeline.run.compose import compose
from pipeline.run.door import check_names

CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 128,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300, "hidden_act": "silu",
    "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": True,
    "torch_dtype": "float32",
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    model = tmp_path / "models" / "Mine-1"
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps(CONFIG))
    return model


@pytest.mark.parametrize("given", ["models/Mine-1", "models/Mine-1/", "absolute"])
def test_a_folder_is_a_preset(folder, given):
    given = str(folder) if given == "absolute" else given
    words = ["stage=rl", f"model={given}", "cluster=local", "data=arithmetic", "rl.steps=3"]
    assert check_names(words) is None
    settings = compose(words)
    assert (settings.name, settings.model.family, settings.model.num_layers) == ("Mine-1", "llama", 2)
    assert (settings.model.path, settings.rl.steps, settings.layout.tp) == (str(folder), 3, 1)


def test_the_derived_preset_is_said_and_gives_the_same_run_as_a_file(folder, tmp_path, capsys):
    words = ["model=models/Mine-1", "cluster=local", "data=arithmetic"]
    assert cli.main(["stage=plan", *words]) == 0
    assert "derived from" in capsys.readouterr().out
    from pipeline.settings.derive import derive, to_yaml

    (tmp_path / "mine.yaml").write_text(to_yaml(derive(folder, 0)))
    by_folder, by_file = (
        compose(["stage=rl", f"model={m}", *words[1:], "name=x"]) for m in ("models/Mine-1", "mine.yaml")
    )
    assert by_folder.model == by_file.model
    assert by_folder.layout == by_file.layout


def test_a_folder_without_a_model_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("ETR_FOLDER", str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty.*config\.json"):
        compose(["stage=rl", "model=empty"])
    with pytest.raises(InputError, match=r"nowhere: there is no such folder"):
        compose(["stage=rl", "model=./nowhere"])
