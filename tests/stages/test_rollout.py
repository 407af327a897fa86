"""Offline rollouts from the command line: what is shown, Ctrl-C, and the training prompts that their pass rates leave.

A run that was stopped and continued must end with the bytes of a straight one, and the training must see no prompt outside the
bounds. The micro model never answers right, so the pass rates that the filter is tried with are written by hand.
"""

import os
import pty
import signal
import subprocess
import sys

import pytest
from cli import end, environment
from house import House, assert_gone, family, until

from pipeline.common.files import read_json, read_jsonl, write_jsonl

pytestmark = pytest.mark.slow
WORDS = ("rollout.offline_shard_prompts=4", "rollout.offline_group_size=4")


def on_a_terminal(house: House, *words: str, name: str) -> str:
    """Run stage=rollout to its end with a terminal for its output; returns what came there."""
    here, there = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.run.cli", *house.words("rollout", *words, name=name)],
        cwd=house.folder, env=environment(ETR_FOLDER=str(house.folder), TERM="xterm", COLUMNS="100"),
        stdin=subprocess.DEVNULL, stdout=there, stderr=there, start_new_session=True,
    )  # fmt: skip
    os.close(there)
    parts = []
    try:
        while part := os.read(here, 1 << 16):
            parts.append(part)
    except OSError:  # how Linux tells that the other side is closed
        pass
    finally:
        os.close(here)
        code = process.wait(timeout=60)
    text = b"".join(parts).decode("utf-8", "replace")
    assert code == 0, text
    return text


def files(root) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (root / "rollout").glob("**/*.jsonl")}


@pytest.fixture(scope="module")
def straight(house):
    """The run `offline`, its rollouts made without a break; and what the terminal saw."""
    root = house.copy("offline", "preprocess", "convert")
    return root, on_a_terminal(house, *WORDS, name="offline")


def test_a_terminal_shows_tokens_a_second_and_the_time_left(straight):
    _, text = straight
    assert "256/256" in text
    assert " tokens/s" in text
    assert " left" in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor is back
    assert "rollout: 256 samples in " in text
    assert "64 prompts, 16 shards: pass rate" in text


def test_ctrl_c_keeps_what_is_done_and_the_same_command_continues(house, straight):
    root = house.copy("broken-off", "preprocess", "convert")
    shards = root / "rollout" / "shards"
    process = house.start("rollout", *WORDS, name="broken-off")
    until(lambda: (shards / "00000.jsonl").exists(), process)
    everyone = family(process)
    process.send_signal(signal.SIGINT)
    try:
        out, err = process.communicate(timeout=120)
    finally:
        end(process)
    assert process.returncode == 1, err
    assert "finishing the step" in err
    assert "the same command continues" in out
    assert "Traceback" not in out + err
    assert_gone(everyone)
    done = len(list(shards.iterdir()))
    assert 1 <= done < 16
    assert f"{done} of 16 shards are there; pass rates follow when all are" in out
    assert files(root).items() <= files(straight[0]).items()

    result = house.run("rollout", *WORDS, name="broken-off")
    assert result.code == 0, result.err
    assert f"{done} of 16 shards are there; going on with the rest" in result.out
    assert "rollout 256/256  " in result.out
    assert " tokens/s" in result.out
    assert f"rollout: {16 * (16 - done)} samples in " in result.out
    assert "\x1b" not in result.out
    assert files(root) == files(straight[0])


def test_rl_trains_on_prompts_within_the_bounds(house, straight):
    root, _ = straight
    path = root / "rollout" / "pass_rates.jsonl"
    rows = list(read_jsonl(path))
    write_jsonl(path, [row | {"pass_rate": 0.0} for row in rows])  # a model that hardly trained may be right once
    words = (*WORDS, "rl.min_pass_rate=0", "rl.max_pass_rate=1", "rl.steps=2", "rl.sample_rollouts=4")
    result = house.run("rl", *words, name="offline")
    assert result.code == 3
    assert "of 64 training prompts, by their offline pass rates, 64 are at or below rl.min_pass_rate=0" in result.err
    assert "Traceback" not in result.err

    rates = [0.0, 1.0, 0.0, 1.0, 0.25, 1.0, 0.0, 0.75]  # two of eight lie between
    write_jsonl(path, [row | {"pass_rate": rates[i % 8]} for i, row in enumerate(rows)])
    result = house.run("rl", *words, name="offline")
    assert result.code == 0, result.err
    assert "24 are at or below rl.min_pass_rate=0 and 24 at or above rl.max_pass_rate=1: 16 kept" in result.out
    seen = [row["prompt_id"] for row in read_jsonl(root / "samples.jsonl")]
    assert len(seen) == len(set(seen)) == 2 * 4
    assert set(seen) <= {row["id"] for i, row in enumerate(rows) if i % 8 in (4, 7)}
    assert "rollout/pass_rates.jsonl" in read_json(root / "rl" / "manifest.json")["inputs"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("rollout.offline_split=tarin",), 2, ["rollout.offline_split=tarin", "Did you mean", "train, held_out"]),
        (("rollout.max_prompt_tokens=13",), 3, ["has 14 tokens, and rollout.max_prompt_tokens allows 13"]),
        (("rollout.engine=natve",), 2, ["rollout.engine=natve", "auto, native, vllm"]),
        (("rollout.offline_group_size=0",), 2, ["rollout.offline_group_size=0", ">= 1"]),
        (("rollout.offline_shard_prompts=0",), 2, ["rollout.offline_shard_prompts=0", ">= 1"]),
    ],
)
def test_a_wrong_word_is_told_what_is_allowed(house, words, code, said):
    result = house.run("rollout", *words)
    assert result.code == code
    assert "Traceback" not in result.out + result.err
    for part in said:
        assert part in result.err, result.err
