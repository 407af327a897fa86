"""Checkpoints of others run nothing, damaged ones are not loaded, and NaN is neither saved nor loaded.

Each damage is made in a copy of one small checkpoint. Not covered here: several ranks (tests/model/weights_ranks.py reshards,
poison_ranks.py decides on two ranks), and the stages' command lines (tests/stages/test_nothing_lost.py).
"""

import errno
import os
import pickle
import shutil
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from ranks import run_ranks
from tiny_models import tiny_model

from pipeline.common.errors import InputError
from pipeline.settings import Layout, Optimizer, Rl
from pipeline.stage import explain

MODEL = tiny_model("llama")
RL = Rl(optimizer=Optimizer(lr=1e-3, warmup_steps=0))


class Command:
    """A pickle that makes a file as it is read."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.fixture(scope="session")
def actor(world):
    from megatron_patches.training.actor import Actor

    return Actor(MODEL, Layout(), RL, 1.0)


@pytest.fixture(scope="session")
def saved(actor, tmp_path_factory):
    """A folder with iterations 1, 2 and 3."""
    from megatron_patches.model import checkpoint

    root = tmp_path_factory.mktemp("saved")
    for iteration in (1, 2, 3):
        checkpoint.save(root, iteration, actor.chunks, MODEL, optimizer=actor.optimizer, common={"number": iteration})
    return root


@pytest.fixture
def root(saved, tmp_path):
    """A copy to be damaged."""
    shutil.copytree(saved, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def load(root, actor, iteration=3):
    from megatron_patches.model import checkpoint

    return checkpoint.load(root, iteration, actor.chunks, MODEL, optimizer=actor.optimizer)


def refusal(root, actor, iteration=3) -> str:
    with pytest.raises(InputError) as caught:
        load(root, actor, iteration)
    return str(caught.value)


def forget_sums(root):
    """As a folder of another program, whose files nothing sums up."""
    for path in root.glob("iter_*/checksums.json"):
        path.unlink()


def test_our_own_loads(root, actor):
    assert load(root, actor) == {"number": 3}


def test_metadata_that_would_run_a_command_is_refused(root, actor, tmp_path):
    forget_sums(root)
    marker = tmp_path / "marker"
    (root / "iter_0000003" / ".metadata").write_bytes(pickle.dumps(Command(marker)))
    text = refusal(root, actor)
    assert "posix.mkdir" in text
    assert "is refused" in text
    assert not marker.exists()


def test_common_state_that_would_run_a_command_is_refused(root, actor, tmp_path, monkeypatch):
    forget_sums(root)
    marker = tmp_path / "marker"
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # which would let every torch.load run commands
    torch.save({"common": Command(marker)}, root / "iter_0000003" / "common.pt")
    text = refusal(root, actor)
    assert "posix.mkdir" in text
    assert not marker.exists()


def test_an_object_entry_that_would_run_a_command_is_not_read_or_refused(root, actor, tmp_path, monkeypatch):
    """Entries such as `_extra_state` are pickles inside the `.distcp` file, which torch reads without limits."""
    from megatron_patches.model import checkpoint_state
    from megatron_patches.model.safe_reading import read_metadata

    forget_sums(root)
    folder, marker = root / "iter_0000003", tmp_path / "marker"
    metadata = read_metadata(folder)
    places = [info for index, info in metadata.storage_data.items() if "_extra_state" in index.fqn]
    assert places
    evil = tmp_path / "evil.pt"
    torch.save(Command(marker), evil)
    data = evil.read_bytes()
    (folder / "evil.distcp").write_bytes(data)
    for info in places:
        info.relative_path, info.offset, info.length = "evil.distcp", 0, len(data)
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    load(root, actor)  # does not ask for them
    monkeypatch.setattr(checkpoint_state, "_without_extra", lambda state: state)
    text = refusal(root, actor)
    assert "posix.mkdir" in text
    assert not marker.exists()


def test_metadata_with_a_class_that_no_checkpoint_needs_is_named(root, actor):
    forget_sums(root)
    (root / "iter_0000003" / ".metadata").write_bytes(pickle.dumps({"x": zipfile.ZipInfo("a")}))
    assert "zipfile.ZipInfo" in refusal(root, actor)


def test_metadata_that_names_a_file_outside_its_folder_is_refused(root, actor):
    from megatron_patches.model.safe_reading import read_metadata

    forget_sums(root)
    folder = root / "iter_0000003"
    metadata = read_metadata(folder)
    next(iter(metadata.storage_data.values())).relative_path = "../iter_0000001/__0_0.distcp"
    (folder / ".metadata").write_bytes(pickle.dumps(metadata))
    assert "outside its folder" in refusal(root, actor)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def zeros(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 4096] = bytes(4096)
    path.write_bytes(data)


def shorten(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [flip, zeros, shorten, os.unlink], ids=lambda harm: harm.__name__)
@pytest.mark.parametrize("name", ["__0_0.distcp", ".metadata", "common.pt", "metadata.json"])
def test_damage_is_noticed_and_the_last_whole_iteration_takes_over(root, actor, harm, name):
    from megatron_patches.model import checkpoint

    if harm is zeros and (root / "iter_0000003" / name).stat().st_size < 8192:
        pytest.skip("the file is smaller than that")
    harm(root / "iter_0000003" / name)
    assert f"damaged: {name}" in refusal(root, actor)
    iteration, wrong = checkpoint.newest_whole(root)
    assert iteration == 2
    assert len(wrong) == 1
    assert name in wrong[0]
    assert checkpoint.latest_iteration(root) == 2
    assert (root / "iter_0000003.damaged-1").is_dir()
    assert load(root, actor, 2) == {"number": 2}


def test_where_every_iteration_is_damaged_none_is_loaded_and_none_is_moved(root):
    from megatron_patches.model import checkpoint

    for path in root.glob("iter_*/__0_0.distcp"):
        flip(path)
    with pytest.raises(InputError, match=r"every checkpoint in .* is damaged"):
        checkpoint.newest_whole(root)
    assert len(list(root.glob("iter_???????"))) == 3


@pytest.mark.parametrize("name", [".metadata", "common.pt"])
@pytest.mark.parametrize("content", [None, b"", b"\x80\x04garbage", b"PK\x03\x04"])
def test_damage_without_sums_is_one_clear_message(root, actor, capfd, name, content):
    forget_sums(root)
    path = root / "iter_0000003" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    text = refusal(root, actor)
    assert name in text
    assert "\n" not in text
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.parametrize(
    ("latest", "said"),
    [
        (None, ["latest_checkpointed_iteration.txt is missing", "1, 2, 3", "echo 3 >"]),
        (b"\xff\xfe2", ["has no such iteration", "1, 2, 3", "echo 3 >"]),
        ("²".encode(), ["has no such iteration", "echo 3 >"]),
        (b"7", ["'7'", "echo 3 >"]),
        (b"", ["''", "echo 3 >"]),
    ],
)
def test_a_missing_or_wrong_latest_file_is_no_fresh_start(root, latest, said):
    from megatron_patches.model import checkpoint

    tracker = root / "latest_checkpointed_iteration.txt"
    tracker.unlink()
    if latest is not None:
        tracker.write_bytes(latest)
    with pytest.raises(InputError) as caught:
        checkpoint.latest_iteration(root)
    for part in said:
        assert part in str(caught.value)


def test_a_file_in_the_place_of_the_checkpoints_is_no_surprise_of_the_first_save(tmp_path):
    from megatron_patches.model.checkpoint import Saver

    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(NotADirectoryError, match="checkpoints"):
        Saver(tmp_path / "checkpoints", MODEL)


def test_a_kill_before_the_first_latest_file_costs_nothing(root):
    """A file that is lost later is an error all the same."""
    from megatron_patches.model import checkpoint

    (root / "latest_checkpointed_iteration.txt").unlink()
    (root / ".first").write_text("1")
    with pytest.raises(InputError, match="is missing"):
        checkpoint.latest_iteration(root)
    for iteration in (2, 3):
        shutil.rmtree(root / f"iter_{iteration:07d}")
    assert checkpoint.latest_iteration(root) == 1


def test_what_a_killed_save_left_is_cleared(root):
    from megatron_patches.model import checkpoint

    (root / ".iter_0000004.writing").mkdir()
    (root / ".iter_0000004.writing" / "__0_0.distcp").write_bytes(b"half")
    (root / ".latest_checkpointed_iteration.txt.abc.tmp").touch()
    checkpoint.clear_unfinished(root)
    assert not list(root.glob(".*"))
    assert len(list(root.glob("iter_*"))) == 3


def test_the_best_iteration_stays_beside_the_newest(actor, tmp_path):
    from megatron_patches.model import checkpoint

    saver = checkpoint.Saver(tmp_path, MODEL, keep=1, keep_best="reward/mean")
    for iteration, score in enumerate((0.1, 0.9, 0.3, float("nan"), None), 1):
        saver.save(iteration, actor.chunks, common={}, score=score)
    assert sorted(path.name for path in tmp_path.glob("iter_*")) == ["iter_0000002", "iter_0000005"]


@pytest.mark.parametrize("held", ["_write_file", "write_sums"])
def test_a_save_in_the_background_is_the_state_of_its_call_and_a_kill_during_it_leaves_the_one_before(
    actor, tmp_path, monkeypatch, held
):
    """The files are copied while the thread waits: that is what a kill at this moment would leave. Training waits neither for
    the data nor for the files that describe them."""
    from megatron_patches.model import checkpoint, checkpoint_saving

    root, killed = tmp_path / "checkpoints", tmp_path / "killed"
    reached, may_write = threading.Event(), threading.Event()
    saver = checkpoint.Saver(root, MODEL, background=True)
    saver.save(1, actor.chunks, optimizer=actor.optimizer, common={"number": 1})
    saver.finish()
    write = getattr(checkpoint_saving, held)

    def wait(*words):
        reached.set()
        assert may_write.wait(20)
        return write(*words)

    monkeypatch.setattr(checkpoint_saving, held, wait)
    weight = dict(actor.chunks[0].named_parameters())["module.decoder.final_layernorm.weight"].data
    before, numbers = weight.clone(), masters(actor)[0].data.clone()
    saver.save(2, actor.chunks, optimizer=actor.optimizer, common={"number": 2})
    weight.add_(1)
    masters(actor)[0].data.add_(1)
    if held == "write_sums":
        saver._running.join()
        saver.poll()
    saver.poll()
    assert reached.wait(20)
    assert checkpoint.latest_iteration(root) == 1
    assert all(
        thread.daemon for thread in threading.enumerate() if thread.name == "checkpoint"
    )  # it ends with the rank
    shutil.copytree(root, killed)
    may_write.set()
    saver.finish()
    assert load(root, actor, checkpoint.latest_iteration(root)) == {"number": 2}
    assert weight.equal(before)
    assert masters(actor)[0].data.equal(numbers)

    assert (killed / ".iter_0000002.writing").is_dir()
    checkpoint.clear_unfinished(killed)
    assert checkpoint.newest_whole(killed) == (1, [])
    assert load(killed, actor, 1) == {"number": 1}


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("part", ["_write_file", "write_sums"])
def test_a_full_disk_is_one_message_and_costs_only_that_save(actor, root, monkeypatch, background, part):
    from megatron_patches.model import checkpoint, checkpoint_saving

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    saver = checkpoint.Saver(root, MODEL, keep=1, background=background)

    def saved(iteration):
        saver.save(iteration, actor.chunks, optimizer=actor.optimizer, common={})
        saver.finish()

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint_saving, part, full)
        with pytest.raises(OSError, match="No space left") as caught:
            saved(4)
    code, said = explain(caught.value)
    assert code == 3
    assert f"The disk is full at {root}/" in said
    assert checkpoint.newest_whole(root) == (3, [])
    assert not list(root.glob(".iter_*"))
    saved(4)
    assert [path.name for path in root.glob("iter_*")] == ["iter_0000004"]


def test_a_file_of_one_rank_that_does_not_fit_is_the_error_of_all(tmp_path):
    """Upstream tells the first rank alone what it was; the launcher showed the traceback of the other."""
    run_ranks(2, Path(__file__).with_name("full_disk_ranks.py"), tmp_path)


def test_saves_start_no_process(actor, tmp_path):
    from megatron_patches.model import checkpoint

    def forked():
        raise AssertionError("a writer was forked")

    os.register_at_fork(before=lambda: forked() if armed else None)
    armed = True
    try:
        checkpoint.save(tmp_path, 1, actor.chunks, MODEL, optimizer=actor.optimizer, common={})
    finally:
        armed = False


def masters(actor):
    """The fp32 numbers that Adam updates, flat as the distributed optimizer holds them."""
    return [param for optimizer in actor.optimizer.chained_optimizers for param in optimizer.get_parameters()]


@pytest.mark.parametrize("where", ["weight", "master", "moment"])
def test_nan_is_not_saved_and_nothing_is_rotated_out(root, actor, where):
    from megatron_patches.model import checkpoint

    load(root, actor)
    state = actor.optimizer.chained_optimizers[0].optimizer.state
    target = {
        "weight": lambda: dict(actor.chunks[0].named_parameters())["module.decoder.final_layernorm.weight"].data,
        "master": lambda: masters(actor)[0].data,
        "moment": lambda: next(iter(state.values()))["exp_avg_sq"],
    }[where]()
    before = target.view(-1)[0].item()
    target.view(-1)[0] = float("nan")
    try:
        with pytest.raises(checkpoint.NonFiniteError, match=r"iter_0000004 is not saved: .* holds NaN") as caught:
            checkpoint.Saver(root, MODEL, keep=1).save(4, actor.chunks, optimizer=actor.optimizer, common={})
    finally:
        target.view(-1)[0] = before
    assert caught.value.exit_code == 1
    if where == "weight":
        assert "decoder.final_layernorm.weight" in str(caught.value)
    assert sorted(path.name for path in root.iterdir() if "iter_" in path.name and path.is_dir()) == [
        "iter_0000001", "iter_0000002", "iter_0000003",
    ]  # fmt: skip


@pytest.mark.parametrize("which", ["decoder.final_layernorm.weight", "optimizer.state.exp_avg"])
def test_a_checkpoint_with_nan_is_not_loaded(root, actor, which, monkeypatch):
    from megatron_patches.model import checkpoint, checkpoint_saving

    load(root, actor)
    weight = dict(actor.chunks[0].named_parameters())["module.decoder.final_layernorm.weight"].data
    state = actor.optimizer.chained_optimizers[0].optimizer.state
    target = weight if which.startswith("decoder") else next(iter(state.values()))["exp_avg"]
    target.view(-1)[3] = float("nan")
    monkeypatch.setattr(
        checkpoint_saving, "_refuse_nonfinite", lambda state, folder: None
    )  # as an older version saved it
    checkpoint.save(root, 4, actor.chunks, MODEL, optimizer=actor.optimizer, common={})
    text = refusal(root, actor, 4)
    assert "iter_0000004 is not loaded" in text
    assert which in text or "optimizer.state.param.decoder.final_layernorm.weight" in text
    load(root, actor)


def held(actor) -> dict:
    """The weights by name, and Adam's numbers in the order of its parameters, as plain_megatron.py gives them."""
    inner = actor.optimizer.chained_optimizers[0]
    weights = {name.removeprefix("module."): value.data.clone() for name, value in actor.chunks[0].named_parameters()}
    adam = [
        {name: value.clone() for name, value in inner.optimizer.state[parameter].items()}
        for parameter in inner.get_parameters()
    ]
    return {"weights": weights, "adam": adam}


def assert_equal(one: dict, other: dict) -> None:
    for first, second in [(one["weights"], other["weights"]), *zip(one["adam"], other["adam"], strict=True)]:
        assert first.keys() == second.keys()
        assert all(first[name].equal(second[name]) for name in first)


def test_plain_megatron_scripts_and_this_project_read_each_others_checkpoints(actor, saved, tmp_path):
    """Weights and the optimizer's memory, to the bit."""
    from megatron_patches.model import checkpoint

    load(saved, actor)
    for state in actor.optimizer.chained_optimizers[0].optimizer.state.values():
        state["exp_avg"].normal_()
        state["exp_avg_sq"].uniform_()
    ours = held(actor)
    checkpoint.save(tmp_path, 1, actor.chunks, MODEL, optimizer=actor.optimizer, common={"number": 1})
    folder = tmp_path / "elsewhere" / "release"
    script = os.path.join(os.path.dirname(__file__), "plain_megatron.py")
    run_ranks(1, script, folder, checkpoint.iteration_folder(tmp_path, 1))
    theirs, read = (torch.load(folder.parent / name, weights_only=True) for name in ("expected.pt", "read.pt"))
    assert_equal(read, ours)

    assert checkpoint.load_folder(folder, actor.chunks, MODEL, optimizer=actor.optimizer) == {}
    assert_equal(held(actor), theirs)
    assert any(moment["exp_avg"].any() for moment in theirs["adam"])
    said = checkpoint.contents(folder, actor.chunks, actor.optimizer)
    assert f"{sum(value.numel() for value in theirs['weights'].values()):,} weights" in said
    assert "tensors of optimizer state" in said
    assert "not read" not in said


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
@pytest.mark.parametrize("distributed", [True, False])
def test_optimizer_state_of_the_other_kind_is_converted_to_the_bit(world, tmp_path, distributed, dtype):
    """Upstream ends in a KeyError. The actor that reads it, and one that reads what that one saves, make the same next steps as
    the one that saved it. They do not clip: the kinds sum the squares of gradients in different orders, so that the norms, and
    with them all clipped gradients, may differ by a rounding."""
    from experiences import random_experience

    from megatron_patches.model import checkpoint
    from megatron_patches.training.actor import Actor
    from megatron_patches.training.policy_loss import Objective
    from pipeline.settings import Algo, Rollout

    model = MODEL.model_copy(update={"dtype": dtype})
    objective = Objective.of(Algo(), RL, Rollout(max_new_tokens=24))

    def actor_of(distributed: bool) -> Actor:
        optimizer = Optimizer(lr=1e-3, warmup_steps=0, distributed=distributed, clip_grad=0)
        return Actor(model, Layout(), Rl(optimizer=optimizer), 1.0)

    def learn(actor: Actor, seed: int) -> None:
        experience = random_experience(model.vocab_size, seed=seed)
        actor.update(experience, torch.arange(len(experience.signal)), objective)

    before, after, back = actor_of(distributed), actor_of(not distributed), actor_of(distributed)
    learn(before, 1)
    learn(before, 2)
    checkpoint.save(tmp_path, 1, before.chunks, model, optimizer=before.optimizer, common={})
    learn(after, 3)  # what it held before must not matter
    checkpoint.load(tmp_path, 1, after.chunks, model, optimizer=after.optimizer)
    checkpoint.save(tmp_path, 2, after.chunks, model, optimizer=after.optimizer, common={})
    learn(back, 3)
    checkpoint.load(tmp_path, 2, back.chunks, model, optimizer=back.optimizer)
    for step in (4, 5):
        for actor in (before, after, back):
            learn(actor, step)
    weights, others, same = (dict(actor.chunks[0].named_parameters()) for actor in (before, after, back))
    assert all(tensor.equal(others[name]) and tensor.equal(same[name]) for name, tensor in weights.items())


def test_state_of_a_precision_aware_optimizer_is_refused_by_name(actor, tmp_path, monkeypatch):
    """That optimizer needs Transformer Engine, so a checkpoint is written here with moments in its type."""
    from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace
    from megatron.core.dist_checkpointing.mapping import ShardedTensor

    from megatron_patches.model import checkpoint, checkpoint_saving, optimizer_forms, safe_reading

    of_upstream = checkpoint_saving.sharded_state

    def small(entry):
        if not isinstance(entry, ShardedTensor) or "optimizer.state.exp_avg." not in entry.key:
            return entry
        return replace(entry, data=entry.data.bfloat16(), dtype=torch.bfloat16)

    checkpoint.save(tmp_path, 1, actor.chunks, MODEL, optimizer=actor.optimizer, common={})
    with monkeypatch.context() as patch:
        patch.setattr(
            checkpoint_saving, "sharded_state", lambda *a, **k: dict_list_map_outplace(small, of_upstream(*a, **k))
        )
        checkpoint.save(tmp_path, 2, actor.chunks, MODEL, optimizer=actor.optimizer, common={})
    with pytest.raises(
        InputError, match=r"0000002: its optimizer state was saved with rl\.optimizer\.precision_aware=true"
    ):
        checkpoint.load(tmp_path, 2, actor.chunks, MODEL, optimizer=actor.optimizer)
    checkpoint.load(tmp_path, 2, actor.chunks, MODEL)  # weights alone
    monkeypatch.setattr(actor.optimizer.config, "use_precision_aware_optimizer", True)
    entries = safe_reading.read_metadata(checkpoint.iteration_folder(tmp_path, 1)).state_dict_metadata
    optimizer_forms.refuse_other_precision(tmp_path, entries, actor.optimizer.config)  # fp32 weights have no halves
    monkeypatch.setattr(actor.optimizer.config, "bf16", True)
    with pytest.raises(
        InputError, match=r"precision_aware=false, and is not converted\. Give that, or .*load_optimizer=false"
    ):
        checkpoint.load(tmp_path, 1, actor.chunks, MODEL, optimizer=actor.optimizer)


def test_a_checkpoint_without_optimizer_state_says_so(actor, tmp_path):
    from megatron_patches.model import checkpoint

    checkpoint.save(tmp_path, 1, actor.chunks, MODEL, common={})
    with pytest.raises(InputError, match=r"holds no optimizer state; give rl\.load_optimizer=false"):
        checkpoint.load(tmp_path, 1, actor.chunks, MODEL, optimizer=actor.optimizer)
