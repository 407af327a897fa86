"""run.sh itself, in a copy of what it needs, with an environment whose Python only says what it was asked.

What this leaves out: a real installation, which needs a package registry; CI makes one on every fresh machine.
"""

import hashlib
import os
import shutil
import subprocess

import pytest
from cli import ROOT, environment

FAKE = '#!/bin/sh\necho "$PWD: $*"\n'


@pytest.fixture
def house(tmp_path):
    """A checkout with run.sh, requirements, preset names, and an environment that counts as ready."""
    root = tmp_path / "a house"  # a space in the path must not matter
    for folder in ("requirements", "configs"):
        shutil.copytree(ROOT / folder, root / folder)
    (root / "pipeline" / "run").mkdir(parents=True)
    for name in (
        "run.sh",
        "pipeline/__init__.py",
        "pipeline/run/__init__.py",
        "pipeline/run/door.py",
        "pipeline/run/environment.py",
    ):
        shutil.copy(ROOT / name, root / name)
    python = root / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE)
    python.chmod(0o755)
    content = b"".join((root / "requirements" / name).read_bytes() for name in ("torch.txt", "cpu.txt"))
    (root / ".venv" / ".stamp-base").write_text(hashlib.sha256(content).hexdigest() + "\n")
    return root


@pytest.fixture
def bash(tmp_path):
    """Calls `bash run.sh` where python3.11 cannot install anything: it only says that it would."""
    tools = tmp_path / "tools"
    tools.mkdir()
    real = shutil.which("python3.11") or shutil.which("python3.12") or shutil.which("python3")
    shim = tools / "python3.11"
    shim.write_text(
        '#!/bin/sh\nif [ "$2" = pipeline.run.environment ]; then echo "installs"; exit "${INSTALL_CODE:-0}"; fi\n'
        f'exec "{real}" "$@"\n'
    )
    shim.chmod(0o755)

    def call(root, *words, cwd=tmp_path, **extra):
        env = environment(PATH=f"{tools}:/usr/bin:/bin", **extra)
        env.pop("PYTHONPATH")
        return subprocess.run(
            ["bash", str(root / "run.sh"), *words],
            cwd=cwd, env=env, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=30,
        )  # fmt: skip

    return call


@pytest.mark.parametrize("words", [(), ("--help",)])
def test_alone_it_prints_what_can_be_run_without_an_environment(house, bash, words):
    shutil.rmtree(house / ".venv")
    result = bash(house, *words)
    assert result.returncode == 0
    for part in ("preprocess", "doctor", "32b", "30b-a3b", "llama3.1-8b"):
        assert part in result.stdout
    assert result.stdout.count("  bash run.sh stage=") == 3
    assert "installs" not in result.stdout


def test_with_an_environment_the_command_line_goes_straight_on_from_any_folder(house, bash, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    result = bash(house, "stage=rl", "model=8b", "name=a b", cwd=elsewhere)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{elsewhere}: -m pipeline.run.cli stage=rl model=8b name=a b\n"


@pytest.mark.parametrize("change", ["requirements", "no stamp", "no environment"])
def test_an_environment_that_does_not_fit_is_made_first(house, bash, change):
    if change == "requirements":
        with open(house / "requirements" / "cpu.txt", "a") as file:
            file.write("# another line\n")
    elif change == "no stamp":  # as an installation that was cut off leaves it
        (house / ".venv" / ".stamp-base").unlink()
    else:
        os.rename(house / ".venv", house / "gone")
    result = bash(house, "stage=rl", "model=8b")
    assert result.stdout.startswith("installs\n")
    failed = bash(house, "stage=rl", "model=8b", INSTALL_CODE="3")
    assert failed.returncode == 3
    assert failed.stdout == "installs\n"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["stage=lr", "model=8b"], "Did you mean stage=rl?"),
        (["stage=rl", "model=8B-base"], "Did you mean model=8b?"),
        (["stage=rl"], "model= is missing"),
        (["model=8b"], "stage= is missing"),
        (["rl"], "Did you mean stage=rl?"),
        (["stage=rl", "model=8b", "cluster=gpu9"], "no such cluster"),
    ],
)
def test_wrong_names_are_told_before_anything_is_installed(house, bash, words, said):
    (house / ".venv" / ".stamp-base").unlink()
    result = bash(house, *words)
    assert result.returncode == 2
    assert said in result.stderr
    assert "installs" not in result.stdout


def test_an_extra_that_is_asked_for_and_missing_is_installed(house, bash):
    assert "installs" in bash(house, "stage=rl", "model=8b", ETR_EXTRAS="cpu-vllm").stdout
    digest = hashlib.sha256((house / "requirements" / "cpu-vllm.txt").read_bytes()).hexdigest()
    (house / ".venv" / ".stamp-cpu-vllm").write_text(digest + "\n")
    assert "installs" not in bash(house, "stage=rl", "model=8b", ETR_EXTRAS="cpu-vllm").stdout


def test_both_sides_hash_the_requirements_alike(house):
    """run.sh compares the stamp in bash, and pipeline.run.environment writes it in Python."""
    code = "from pipeline.run import environment as e; print([e.is_ready('base'), e.is_ready('cpu-vllm')])"
    python = shutil.which("python3.11") or shutil.which("python3")
    result = subprocess.run(
        [python, "-c", code], env=environment(PYTHONPATH=str(house)), capture_output=True, text=True
    )
    assert result.stdout.strip() == "[True, False]", result.stderr


def test_an_unknown_extra_is_refused(house):
    python = shutil.which("python3.11") or shutil.which("python3")
    result = subprocess.run(
        [python, "-m", "pipeline.run.environment"],
        env=environment(PYTHONPATH=str(house), ETR_EXTRAS="gpu-vllm"), cwd=house, capture_output=True, text=True,
    )  # fmt: skip
    assert result.returncode == 2
    assert "cpu-vllm" in result.stderr


def test_no_python_that_fits_is_told(house, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for tool in ("bash", "dirname", "cat", "sha256sum", "env", "uname"):
        (empty / tool).symlink_to(shutil.which(tool))
    result = subprocess.run(
        ["bash", str(house / "run.sh")], env={"PATH": str(empty)}, capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 2
    assert "Python 3.11 or 3.12 is needed" in result.stderr


def test_a_gpu_adds_its_extras_once_even_if_they_cannot_be_had(house, bash, tmp_path):
    (tmp_path / "tools" / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: some GPU'\n")
    (tmp_path / "tools" / "nvidia-smi").chmod(0o755)
    assert "installs" in bash(house, "stage=rl", "model=8b").stdout
    digest = hashlib.sha256((house / "requirements" / "gpu.txt").read_bytes()).hexdigest()
    (house / ".venv" / ".stamp-gpu-failed").write_text(digest + "\n")  # tried in vain
    assert "installs" not in bash(house, "stage=rl", "model=8b").stdout
    (tmp_path / "tools" / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")  # the tool is there, a GPU is not
    (house / ".venv" / ".stamp-gpu-failed").unlink()
    assert "installs" not in bash(house, "stage=rl", "model=8b").stdout
