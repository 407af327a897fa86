"""What a stage's rank makes of errors, and of its place in the world."""

import errno
import json
import subprocess
import sys

import pytest
import yaml
from cli import ROOT, environment, preset

from pipeline.common.errors import InputError, UsageError
from pipeline.run.compose import compose
from pipeline.stage import explain, load_run


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("a=1 is wrong"), 2, "a=1 is wrong"),
        (InputError("x is missing"), 3, "x is missing"),
        (OSError(errno.ENOSPC, "No space left on device", "/big"), 3, "The disk is full at /big"),
        (OSError(errno.EADDRINUSE, "Address already in use"), 2, "cluster.master_port"),
        (KeyboardInterrupt(), 1, "Interrupted"),
        (ValueError("ill"), 1, "ValueError: ill"),
    ],
)
def test_errors_have_their_exit_codes(error, code, said):
    got, message = explain(error)
    assert got == code
    assert said in message


def test_a_rank_reads_its_settings_and_its_place(tmp_path, monkeypatch):
    settings = compose(["stage=sft", f"model={preset(tmp_path)}", f"runs_dir={tmp_path}"])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    for name, value in {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    run = load_run([str(path), "--local_rank=1"])
    assert (run.rank, run.world_size, run.local_rank, run.is_main) == (3, 4, 1, False)
    assert run.settings == settings
    assert run.folder() == tmp_path / "mini" / "sft"
    assert run.folder("rl").is_dir()
    path.write_text("{stage: rl}")
    with pytest.raises(InputError, match="not a resolved configuration"):
        load_run([str(path)])


def test_a_stage_started_by_hand_ends_with_its_code_and_message(tmp_path):
    settings = compose(["stage=rl", f"model={preset(tmp_path)}", f"runs_dir={tmp_path}"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    script = tmp_path / "stage.py"
    script.write_text(
        "from pipeline.stage import run_stage\nfrom pipeline.common.errors import InputError\n"
        "def main(run):\n    raise InputError('no data in ' + run.settings.name)\n"
        "if __name__ == '__main__':\n    run_stage(main)\n"
    )
    command = [sys.executable, str(script), str(tmp_path / "config.yaml")]
    outcomes = tmp_path / "outcome"
    result = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (3, "no data in mini\n")
    env = environment(ETR_OUTCOME_FOLDER=str(outcomes))
    assert subprocess.run(command, cwd=ROOT, env=env, capture_output=True).returncode == 3
    outcome = json.loads((outcomes / "rank0.json").read_text())
    assert (outcome["code"], outcome["message"], outcome["traceback"]) == (3, "no data in mini", "")
