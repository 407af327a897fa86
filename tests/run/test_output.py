"""What reaches the screen and what the log, of a stage that runs as `bash run.sh` starts it, and of one that fails."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cli import ROOT, environment, preset

from pipeline.run import cli, manifests, supervise
from pipeline.run.compose import compose
from pipeline.run.launch import Command

SCRIPT = """
import logging, os, signal, sys, time, warnings
from pipeline.common.errors import InputError
from pipeline.stage import run_stage
from pipeline.tracking.progress import Progress

def noise(run):
    with Progress(2, "counting", "steps") as progress:
        progress.advance()
        warnings.warn("old name", FutureWarning)
        logging.getLogger("library").warning("careful")
        logging.getLogger("library").error("broken pipe")
        print("resource_tracker: leaked", file=sys.stderr)
        os.write(1, b"[Gloo] connected\\n")
        os.write(2, b"NUMA node unknown\\n")
        os.system("echo from a child")
        run.log("a line of the stage")
        print("a printed line")
        progress.advance()

def fail(run):
    noise(run)
    raise ValueError("ill")

def misuse(run):
    noise(run)
    raise InputError("no data")

def segfault(run):
    noise(run)
    os.kill(os.getpid(), signal.SIGSEGV)

def leave(run):
    noise(run)
    os._exit(7)

def interrupted(run, at):
    for step in (1, 2):
        if step == at:
            os.kill(os.getppid(), signal.SIGINT)
            while not os.path.exists(os.environ["ETR_STOP_FILE"]):
                time.sleep(0.01)
        if run.should_stop(last=step == 2):
            break
    return {"step": step}

MODES = {"noise": noise, "fail": fail, "misuse": misuse, "segfault": segfault, "leave": leave,
         "first": lambda run: interrupted(run, 1), "last": lambda run: interrupted(run, 2)}
if __name__ == "__main__":
    run_stage(MODES[os.environ["TEST_MODE"]])
"""
SHOWN = ("counting", "a line of the stage", "a printed line", "broken pipe")
LOGGED = ("FutureWarning: old name", "careful", "broken pipe", "leaked", "[Gloo]", "NUMA", "from a child")
HIDDEN = ("old name", "careful", "leaked", "[Gloo]", "NUMA", "from a child")


@pytest.fixture
def start(tmp_path, capfd):
    """Runs the script in a mode under the supervisor; returns the ending, the screen, and the log's text."""
    settings = compose(["stage=rl", f"model={preset(tmp_path)}", f"runs_dir={tmp_path}"])
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings.model_dump(mode="json")))
    (tmp_path / "script.py").write_text(SCRIPT)

    def call(mode):
        argv = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "config.yaml")]
        command = Command(argv, {"TEST_MODE": mode, "PYTHONPATH": str(ROOT)})
        ending = supervise.run(command, ROOT, tmp_path / "stage", range(1), stops=True)
        return ending, "".join(capfd.readouterr()), (tmp_path / "stage/logs/node0/rank0.log").read_text()

    return call


def test_the_screen_shows_the_stage_and_the_log_its_libraries(start):
    ending, screen, log = start("noise")
    assert ending.code == 0
    assert [text for text in SHOWN if text not in screen] == []
    assert [text for text in HIDDEN if text in screen] == []
    assert [text for text in LOGGED if text not in log] == []
    assert "a line of the stage" not in log


@pytest.mark.parametrize(
    ("mode", "code", "parts"),
    [
        ("fail", 1, [r"ValueError: ill\nRank 0 failed\. Its log: \S+/stage/logs/node0/rank0\.log$"]),
        ("misuse", 3, [r"^no data$"]),
        ("segfault", 1, [r"^The end of \S+/rank0\.log:", "NUMA", "Fatal Python error: Segmentation fault", "in segfault",
                         r"The process was killed by SIGSEGV\.$"]),
        ("leave", 1, [r"^The end of \S+/rank0\.log:", "NUMA", r"The process ended with exit code 7\.$"]),
    ],
)  # fmt: skip
def test_a_failure_is_shown_whole_and_names_the_log(start, mode, code, parts):
    ending, screen, log = start(mode)
    assert ending.code == code
    for part in parts:
        assert re.search(part, ending.message), ending.message
    assert "NUMA" not in screen
    assert "NUMA" in log


@pytest.mark.parametrize(("mode", "step", "stopped"), [("first", 1, True), ("last", 2, False)])
def test_ctrl_c_stops_a_stage_except_in_its_last_step(start, mode, step, stopped):
    ending, screen, _ = start(mode)
    assert (ending.code, ending.result, ending.stopped, ending.asked) == (0, {"step": step}, stopped, True)
    assert "finishing the step" in screen


@pytest.mark.parametrize(("stage", "code"), [("preprocess", 0), ("all", 1)])
def test_after_ctrl_c_in_the_last_step_the_stage_is_done_and_the_next_not_begun(
    tmp_path, monkeypatch, capsys, stage, code
):
    started = []

    def run(*arguments):
        started.append(arguments)
        return supervise.Ending(0, asked=True)

    monkeypatch.setattr(supervise, "run", run)
    monkeypatch.setattr(manifests, "save", lambda *_: None)
    assert cli.main([f"stage={stage}", f"model={preset(tmp_path)}", f"runs_dir={tmp_path}"]) == code
    out = capsys.readouterr().out
    assert len(started) == 1
    assert "preprocess: done" in out
    assert ("stopped before the next stage" in out) == (stage == "all")


def test_a_terminal_gets_the_bar_and_no_warning_through_it(start, tmp_path):
    master, slave = pty.openpty()
    argv = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "config.yaml")]
    env = environment(TEST_MODE="noise", ETR_LOG_FOLDER=str(tmp_path / "logs"), TERM="xterm")
    process = subprocess.Popen(argv, cwd=ROOT, env=env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    screen = b""
    while part := _read(master):
        screen += part
    os.close(master)
    assert process.wait() == 0
    assert b"\x1b[?25l" in screen  # the cursor is hidden while the bar is drawn
    assert b"2/2" in screen
    assert [text for text in SHOWN if text.encode() not in screen] == []
    assert [text for text in HIDDEN if text.encode() in screen] == []
    assert "FutureWarning" in Path(tmp_path / "logs/rank0.log").read_text()


def _read(terminal: int) -> bytes:
    """What a terminal shows next; empty once its other end is closed, which Linux reports as an error."""
    try:
        return os.read(terminal, 1 << 16)
    except OSError:
        return b""


def test_a_log_that_cannot_be_opened_changes_nothing(start, tmp_path):
    (tmp_path / "file").write_text("")
    argv = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "config.yaml")]
    env = environment(TEST_MODE="fail", ETR_LOG_FOLDER=str(tmp_path / "file"))
    result = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True)
    assert result.returncode == 1
    assert "old name" in result.stderr
    assert result.stderr.endswith("ValueError: ill\n\n")
