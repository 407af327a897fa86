"""run.sh itself, in a copy of what it needs, with an environment whose Python only says what it was asked.

What this leaves out: a real installation, which needs a package registry; CI makes one on every fresh machine.
"""

import hashlib
import os
import shutil
import subprocess

import pytest
from cli import ROOT, environment

PYTHON = shutil.which("python3.11") or shutil.which("python3.12") or shutil.which("python3")
"""The system's."""
FAKE = '#!/bin/sh\necho "$PWD: $*"\n'


@pytest.fixture
def house(tmp_path):
    """A checkout with run.sh, requirements, preset names, and an environment that counts as ready."""
    root = tmp_path / "a house"  # a space in the path must not matter
    for folder in ("requirements", "configs"):
        shutil.copytree(ROOT / folder, root / folder)
    for folder in ("common", "run"):
        (root / "pipeline" / folder).mkdir(parents=True)
    for name in (
        "run.sh",
        "pipeline/__init__.py",
        "pipeline/common/__init__.py",
        "pipeline/common/names.py",
        "pipeline/common/benches.py",
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
    shim = tools / "python3.11"
    shim.write_text(
        '#!/bin/sh\nif [ "$2" = pipeline.run.environment ]; then echo "installs"; exit "${INSTALL_CODE:-0}"; fi\n'
        f'exec "{PYTHON}" "$@"\n'
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
    assert result.stdout.count("  bash run.sh stage=") == 5
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


@pytest.mark.parametrize("extra", ["cpu-vllm", "gguf"])
def test_an_extra_that_is_asked_for_and_missing_is_installed(house, bash, extra):
    assert "installs" in bash(house, "stage=rl", "model=8b", ETR_EXTRAS=extra).stdout
    digest = hashlib.sha256((house / "requirements" / f"{extra}.txt").read_bytes()).hexdigest()
    (house / ".venv" / f".stamp-{extra}").write_text(digest + "\n")
    assert "installs" not in bash(house, "stage=rl", "model=8b", ETR_EXTRAS=extra).stdout
    assert (
        "installs" in bash(house, "stage=rl", "model=8b", ETR_EXTRAS="cpu-vllm gguf").stdout
    )  # the other one is missing


def test_both_sides_hash_the_requirements_alike(house):
    """run.sh compares the stamp in bash, and pipeline.run.environment writes it in Python."""
    code = "from pipeline.run import environment as e; print([e.is_ready('base'), e.is_ready('cpu-vllm')])"
    result = subprocess.run(
        [PYTHON, "-c", code], env=environment(PYTHONPATH=str(house)), capture_output=True, text=True
    )
    assert result.stdout.strip() == "[True, False]", result.stderr


def test_stamps_are_read_without_sha256sum(house, tmp_path):
    """As on macOS, which has shasum."""
    tools = tmp_path / "mac"
    tools.mkdir()
    for tool in ("bash", "sh", "dirname", "cat", "env", "uname"):
        (tools / tool).symlink_to(shutil.which(tool))
    (tools / "shasum").write_text(f'#!/bin/sh\n[ "$1 $2" = "-a 256" ] && exec {shutil.which("sha256sum")}\n')
    (tools / "shasum").chmod(0o755)
    words = ["bash", str(house / "run.sh"), "stage=rl", "model=8b"]
    result = subprocess.run(words, env={"PATH": str(tools)}, capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout == f"{tmp_path}: -m pipeline.run.cli stage=rl model=8b\n", result.stderr


def test_an_unknown_extra_is_refused(house):
    result = subprocess.run(
        [PYTHON, "-m", "pipeline.run.environment"],
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


def stamp_of(house, layer):
    """The content of a layer's stamp."""
    files = {
        "gpu-vllm": ("gpu-vllm.txt",),
        "gpu-te": ("gpu-te-build.txt", "gpu-te.txt"),
        "base": ("torch.txt", "cpu.txt"),
    }
    content = b"".join((house / "requirements" / name).read_bytes() for name in files[layer])
    return hashlib.sha256(content).hexdigest() + "\n"


def test_a_gpu_adds_its_extras_once_even_if_they_cannot_be_installed(house, bash, tmp_path):
    (tmp_path / "tools" / "nvidia-smi").write_text("#!/bin/sh\necho 'GPU 0: some GPU'\n")
    (tmp_path / "tools" / "nvidia-smi").chmod(0o755)
    assert "installs" in bash(house, "stage=rl", "model=8b").stdout
    (house / ".venv" / ".stamp-gpu-vllm").write_text(stamp_of(house, "gpu-vllm"))
    assert "installs" in bash(house, "stage=rl", "model=8b").stdout  # transformer-engine is a layer apart
    (house / ".venv" / ".stamp-gpu-te-failed").write_text(stamp_of(house, "gpu-te"))  # tried without success
    assert "installs" not in bash(house, "stage=rl", "model=8b").stdout
    (tmp_path / "tools" / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")  # the tool is there, a GPU is not
    (house / ".venv" / ".stamp-gpu-te-failed").unlink()
    assert "installs" not in bash(house, "stage=rl", "model=8b").stdout


@pytest.mark.parametrize("where", ["relative", "absolute"])
def test_etr_venv_names_another_environment(house, bash, tmp_path, where):
    other = house / ".venv-other" if where == "relative" else tmp_path / "elsewhere"
    shutil.copytree(house / ".venv", other)
    shutil.rmtree(house / ".venv")
    name = ".venv-other" if where == "relative" else str(other)
    result = bash(house, "stage=rl", "model=8b", ETR_VENV=name)
    assert result.stdout == f"{tmp_path}: -m pipeline.run.cli stage=rl model=8b\n", result.stderr
    assert "installs" in bash(house, "stage=rl", "model=8b").stdout


def test_etr_python_is_used_as_it_is(house, bash, tmp_path):
    shutil.rmtree(house / ".venv")
    mine = tmp_path / "mine"
    mine.write_text(FAKE)  # a container's: it has everything
    mine.chmod(0o755)
    result = bash(house, "stage=rl", "model=8b", ETR_PYTHON=str(mine))
    modules = [line.split("-m ")[1] for line in result.stdout.splitlines()]
    assert modules == [
        "pipeline.run.door stage=rl model=8b",
        "pipeline.run.environment check",
        "pipeline.run.cli stage=rl model=8b",
    ]
    assert not (house / ".venv").exists()


def test_etr_python_that_lacks_packages_says_which(house, bash, tmp_path):
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec "{PYTHON}" -S "$@"\n')  # without site-packages
    bare.chmod(0o755)
    result = bash(house, "stage=doctor", ETR_PYTHON=str(bare))
    assert result.returncode == 3
    assert "lacks packages: torch==2.13.0" in result.stderr
    assert "pydantic==" in result.stderr
    assert "hjson" not in result.stderr  # needed by deepspeed, not by us: pip brings it
    wrong = bash(house, "stage=doctor", ETR_PYTHON=str(tmp_path / "nowhere"))
    assert wrong.returncode == 2
    assert "is not a Python 3.11 or 3.12" in wrong.stderr


INSTALLER = """#!/bin/sh
echo "$@" >> "$CALLS"
case "$*" in *"$BREAKS"*) echo "the reason"; exit 1;; esac
"""
"""A Python of the environment that writes down what it is asked, and fails at one thing."""


@pytest.fixture
def gpu(house, tmp_path):
    """Runs `pipeline.run.environment` beside a base that is ready, a GPU and nvcc; returns the result and pip's calls."""
    (house / ".venv" / "lib" / "python3.11").mkdir(parents=True)
    (house / ".venv" / "bin" / "python").write_text(INSTALLER)
    tools = tmp_path / "tools"
    for name, text in (("nvidia-smi", "#!/bin/sh\necho 'GPU 0: some GPU'\n"), ("cuda/bin/nvcc", "#!/bin/sh\n")):
        (tools / name).parent.mkdir(parents=True, exist_ok=True)
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)

    def call(breaks="nothing", cuda=tools / "cuda"):
        calls = tmp_path / "calls"
        calls.write_text("")
        env = environment(PYTHONPATH=str(house), CALLS=str(calls), BREAKS=breaks, CUDA_HOME=str(cuda))
        env["PATH"] = f"{tools}:{env['PATH']}"
        result = subprocess.run(
            [PYTHON, "-c", ONLY_EXTRAS], cwd=house, env=env, capture_output=True, text=True, timeout=30
        )
        return result, calls.read_text().splitlines()

    return call


ONLY_EXTRAS = (
    "from pipeline.run import environment as e; e.NEEDED_GIB = dict.fromkeys(e.LAYERS, 0); raise SystemExit(e.main([]))"
)


def test_gpu_extras_are_installed_apart_and_within_the_lock(house, gpu):
    result, calls = gpu()
    assert result.returncode == 0, result.stderr
    installs = [call for call in calls if "pip install" in call]
    assert [call.split("requirements/")[1].split()[0] for call in installs] == [
        "gpu-vllm.txt", "gpu-te-build.txt", "gpu-te.txt",
    ]  # fmt: skip
    assert all("constraints.txt" in call for call in installs)
    assert "--no-build-isolation" not in installs[0]
    assert "--no-build-isolation" in installs[2]
    locked = (house / ".venv" / "constraints.txt").read_text().splitlines()
    assert "torch==2.13.0" in locked
    assert not any(line.startswith("numpy") for line in locked)
    assert calls[-1] == "-c import transformer_engine.pytorch"
    for layer in ("gpu-vllm", "gpu-te"):
        assert (house / ".venv" / f".stamp-{layer}").read_text() == stamp_of(house, layer)
    assert gpu()[1] == []  # the second time there is nothing to do


@pytest.mark.parametrize("breaks", ["gpu-te.txt", "import transformer_engine"])
def test_transformer_engine_that_fails_is_removed_and_reported_and_costs_nothing_else(house, gpu, breaks):
    result, calls = gpu(breaks=breaks)
    assert result.returncode == 0, result.stderr
    assert "the reason" in result.stderr
    assert "gpu-te could not be installed" in result.stderr
    assert "pip uninstall -y transformer-engine " in calls[-1]
    assert (house / ".venv" / ".stamp-gpu-te-failed").read_text() == stamp_of(house, "gpu-te")
    assert (house / ".venv" / ".stamp-gpu-vllm").exists()
    assert gpu(breaks=breaks)[1] == []  # not tried again by itself


def test_transformer_engine_without_nvcc_is_not_tried(gpu, tmp_path):
    result, calls = gpu(cuda=tmp_path)
    assert result.returncode == 0
    assert "Set CUDA_HOME" in result.stderr
    assert not any("gpu-te" in call for call in calls)


def test_vllm_that_fails_leaves_transformer_engine_a_chance(house, gpu):
    result, _ = gpu(breaks="gpu-vllm.txt")
    assert result.returncode == 0
    assert "gpu-vllm could not be installed" in result.stderr
    assert (house / ".venv" / ".stamp-gpu-te").exists()


def test_a_folder_of_something_else_is_not_overwritten(house, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    result = subprocess.run(
        [PYTHON, "-c", ONLY_EXTRAS], capture_output=True, text=True, cwd=house,
        env=environment(PYTHONPATH=str(house), ETR_VENV=str(tmp_path / "home")),
    )  # fmt: skip
    assert result.returncode == 3
    assert "holds something else" in result.stderr
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"
