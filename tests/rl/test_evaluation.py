"""What an evaluation keeps when it is killed, and what it says of its protocol."""

import os
from types import SimpleNamespace

import pytest

from megatron_patches.model.checkpoint_folder import SUMS
from pipeline.common.files import write_text
from pipeline.rl.evaluation import differences, protocol_of
from pipeline.rl.evaluation_parts import Parts
from pipeline.run.compose import compose
from stages.evaluate import parts_of

WORDS = ["stage=evaluate", "model=smollm2-135m", "data.eval=[aime24,gsm8k]"]
LONG = ["model.max_position_embeddings=65536", "rollout.max_new_tokens=32768"]
USUAL = ["evaluate.temperature=0.6", "evaluate.top_p=0.95"]


def test_a_measured_set_counts_only_under_the_settings_of_its_measurement(tmp_path):
    parts = Parts(tmp_path / "parts", {"checkpoint": "a"})
    measured = ({"greedy": 0.1 + 0.2}, [{"problem": "p", "responses": [{"text": "x\n", "correct": True}]}])
    assert parts.read("aime24", {"k": 4}) is None
    parts.write("aime24", {"k": 4}, *measured)
    assert parts.read("aime24", {"k": 4}) == measured
    assert parts.read("aime24", {"k": 5}) is None
    assert parts.read("aime25", {"k": 4}) is None
    assert Parts(tmp_path / "parts", {"checkpoint": "b"}).read("aime24", {"k": 4}) is None
    (tmp_path / "parts" / "aime24.json").write_text('{"identity": "')  # torn
    assert parts.read("aime24", {"k": 4}) is None
    parts.clear()
    assert not (tmp_path / "parts").exists()


@pytest.mark.parametrize(
    ("words", "problems", "said"),
    [
        ([*USUAL], 30, ["usual protocol, reported as avg@32"]),
        ([], 30, ["temperature=1 (usual: 0.6), top_p=1 (usual: 0.95)"]),
        ([*USUAL, "evaluate.k=8"], 29, ["problems=29 (usual: 30), k=8 (usual: 32)"]),
        ([*USUAL, "rollout.max_new_tokens=3072"], 30, ["max_new_tokens=3072 (usual: 32768)"]),
        ([*USUAL, "data.instruction=Think."], 30, ["an instruction that does not ask for a box"]),
        ([*USUAL, "data.template=bare"], 30, ["no instruction (template=bare)"]),
    ],
)
def test_what_differs_from_the_usual_protocol_of_a_known_set_is_said(words, problems, said):
    given = {word.partition("=")[0] for word in words}
    settings = compose([*WORDS, *(word for word in LONG if word.partition("=")[0] not in given), *words])
    (line,) = differences("aime24", protocol_of(settings, "aime24", problems))
    assert line.endswith(said[0])
    assert line.startswith("usual") or "do not compare with published numbers" in line
    assert differences("mine", protocol_of(settings, "mine", problems)) == []


def test_a_copy_of_a_checkpoint_is_the_same_checkpoint(tmp_path):
    """Files of a copy have other times; what was measured before still belongs to it. Another checkpoint has other sums."""
    settings = compose(["stage=evaluate", "model=tiny"])
    run = SimpleNamespace(settings=settings, is_main=True, folder=lambda: tmp_path / "evaluate")
    for root, sums in (("one", "{}"), ("copy", "{}"), ("other", '{"__0_0.distcp": [1, 2]}')):
        write_text(tmp_path / root / "iter_0000004" / SUMS, sums)
    os.utime(tmp_path / "copy" / "iter_0000004" / SUMS, (1, 1))
    one, copy, other = (parts_of(run, settings, tmp_path / root / "iter_0000004") for root in ("one", "copy", "other"))
    one.write("held_out", {"k": 4}, {"avg": 0.5}, [])
    assert copy.read("held_out", {"k": 4}) == ({"avg": 0.5}, [])
    assert other.read("held_out", {"k": 4}) is None
