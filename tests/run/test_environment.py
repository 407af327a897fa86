"""What the environment must hold, and what doctor says of one that lacks something."""

import ast
import importlib.metadata
import sys

import pytest
from cli import ROOT, run_cli

from pipeline.common.errors import InputError
from pipeline.run import environment
from pipeline.stage import StageRun
from stages import doctor

OURS = {"pipeline", "stages", "megatron_patches"}
ONLY_WITH_EXTRAS = {"vllm", "triton", "transformer_engine", "flash_attn", "gguf"}
OPTIONAL = {
    "wandb",
    "mlflow",
    "trackio",
    "datasets",
}  # brought by the user; the messages name them where they are absent


def imported(path):
    """Top-level names that a file imports."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.partition(".")[0]


def test_direct_names_what_the_project_imports():
    names = {
        name
        for folder in OURS
        for path in (ROOT / folder).rglob("*.py")
        if "peers" not in path.parts  # other interpreters run those
        for name in imported(path)
    }
    names -= OURS | ONLY_WITH_EXTRAS | OPTIONAL | set(sys.stdlib_module_names)
    distributions = importlib.metadata.packages_distributions()
    needed = {name: {found.lower() for found in distributions.get(name, ())} for name in sorted(names)}
    direct = {name.lower() for name in environment.DIRECT}
    assert {name for name, found in needed.items() if not found & direct} == set()


def test_every_direct_package_is_pinned():
    assert set(environment.DIRECT) <= environment.pins().keys()


@pytest.fixture
def said(monkeypatch, tmp_path):
    """Runs doctor where the given packages are as given; returns what it logged, and its error."""
    real = environment.installed

    def call(versions, **variables):
        monkeypatch.setattr(environment, "installed", lambda name: versions.get(name, real(name)))
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        lines = []
        monkeypatch.setattr(StageRun, "log", lambda self, text: lines.append(text))
        try:
            doctor.check_machine(StageRun(None, tmp_path))
        except InputError as error:
            return "\n".join(lines), str(error)
        return "\n".join(lines), ""

    return call


def test_doctor_names_what_is_missing_and_what_differs_and_what_to_do(said, monkeypatch):
    monkeypatch.setattr(environment, "is_ready", lambda layer, failed=False: False)
    _, error = said({"psutil": None})
    assert error.startswith(f"Packages are missing: psutil=={environment.pins()['psutil']}")
    assert f"rm -r {environment.VENV}" in error
    _, error = said({"numpy": "1.0"})
    assert "numpy is 1.0, requirements/ has" in error


def test_doctor_lets_a_containers_python_differ_but_not_lack(said):
    log, error = said({"torch": "2.12.0"}, ETR_PYTHON=sys.executable)
    assert error == ""
    assert "used as it is" in log
    assert "torch is 2.12.0, requirements/ has 2.13.0" in log
    _, error = said({"deepspeed": None}, ETR_PYTHON=sys.executable)
    assert "Packages are missing: deepspeed==" in error
    assert f"{sys.executable} -m pip install --no-deps" in error


def test_doctor_names_an_extra_that_could_not_be_installed(said, monkeypatch):
    monkeypatch.setattr(environment, "is_ready", lambda layer, failed=False: failed and layer == "gpu-te")
    log, _ = said({})
    assert "gpu-te: the reason is in" in log
    assert "rm " in log


def test_stage_test_runs_what_tests_names(tmp_path):
    (tmp_path / "test_of_mine.py").write_text(
        "def test_right():\n    assert True\n\n\ndef test_wrong():\n    assert False\n"
    )
    result = run_cli("stage=test", "tests=test_of_mine.py", cwd=tmp_path)
    assert result.code == 1
    assert "1 failed, 1 passed" in result.out
    assert run_cli("stage=test", "tests=test_of_mine.py::test_right", cwd=tmp_path).code == 0
    assert run_cli("stage=test", "test=tests/common").code == 2
    assert run_cli("stage=doctor", "tests=tests/common").code == 2
