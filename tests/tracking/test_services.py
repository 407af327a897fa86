"""Each tracker gets every scalar of metrics.jsonl, also over a resume; one that fails costs its own curves alone.

The packages are optional. Where one is installed its own files are read back; a stand-in with the same names checks the calls
everywhere.
"""

import io
import json
import os
import sqlite3
import sys
import types

import pytest

from pipeline.common.errors import InputError, UsageError
from pipeline.common.files import read_jsonl
from pipeline.settings.tracking import Tracking, check_packages
from pipeline.tracking import Tracker
from pipeline.tracking import services as services_module
from pipeline.tracking.services import Services, mlflow_name, stable_id

HISTOGRAM = {"edges": [0.0, 1.0], "counts": [3.0]}


def train(root, name, warn=print):
    """Three steps, killed after the second and continued; returns step -> scalars as metrics.jsonl has them."""
    for steps in ((1, 2), (3,)):
        services = Services.start([name], root, "project", {"seed": 3, "rl": {"steps": 3}}, warn)
        with Tracker(root, 3, stream=io.StringIO(), events=False, services=services) as tracker:
            tracker.resume(steps[0] - 1)
            for step in steps:
                tracker.log(
                    step, {"reward/mean": step / 8, "reward/pass@1": 0.25, "a/nan": float("nan"), "h/x": HISTOGRAM}
                )
    assert not (root / "tensorboard").exists()
    return {
        row["step"]: {k: v for k, v in row.items() if k != "step" and isinstance(v, float)}
        for row in read_jsonl(root / "metrics.jsonl")
    }


@pytest.fixture
def stand_in(monkeypatch):
    """A package of any of the three names that notes what it is called with."""
    calls = []

    def note(name):
        def call(*args, **options):
            calls.append((name, args, options))
            return module

        return call

    module = types.SimpleNamespace(info=types.SimpleNamespace(run_id="r1"))
    for name in (
        "init",
        "log",
        "finish",
        "teardown",
        "set_tracking_uri",
        "set_experiment",
        "start_run",
        "log_dict",
        "log_metrics",
        "end_run",
    ):
        setattr(module, name, note(name))
    for name in ("wandb", "mlflow", "trackio"):
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return calls


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_every_scalar_is_sent(tmp_path, stand_in, name):
    rows = train(tmp_path / "my run", name)
    sent = {options["step"]: args[0] for call, args, options in stand_in if call in ("log", "log_metrics")}
    assert sent == {
        step: {mlflow_name(key) if name == "mlflow" else key: value for key, value in row.items()}
        for step, row in rows.items()
    }
    assert {"reward/mean", "seconds/step"} <= rows[3].keys()
    starts = [options for call, _, options in stand_in if call in ("init", "start_run")]
    if name == "mlflow":
        assert starts == [{"run_name": "my run"}, {"run_id": "r1"}]
    else:
        assert [start["name"] for start in starts] == ["my run"] * 2
        assert starts[0]["config"]["rl"] == {"steps": 3}
    assert sum(call in ("finish", "end_run") for call, _, _ in stand_in) == 2


def test_a_tracker_that_fails_is_reported_once_and_training_goes_on(tmp_path, stand_in):
    said = []
    services = Services.start(["trackio"], tmp_path, "p", {}, said.append)
    sys.modules["trackio"].log = lambda *args, **options: 1 / 0
    with Tracker(tmp_path, 3, stream=io.StringIO(), services=services) as tracker:
        for step in (1, 2, 3):
            tracker.log(step, {"reward/mean": 0.5})
    assert said == ["WARNING: tracking=trackio is left out from now on: ZeroDivisionError: division by zero"]
    assert len(list(read_jsonl(tmp_path / "metrics.jsonl"))) == 3


def test_a_tracker_that_cannot_be_opened_is_left_out_and_the_others_go_on(tmp_path, stand_in, monkeypatch):
    def busy(*args):
        raise TimeoutError("Failed to read port info after 30.0 seconds")

    monkeypatch.setitem(services_module.SERVICES, "wandb", busy)
    said = []
    services = Services.start(["wandb", "trackio"], tmp_path, "p", {}, said.append)
    services.log(1, {"reward/mean": 0.5})
    services.close()
    assert said == [
        "WARNING: tracking=wandb is left out, because it cannot be opened: TimeoutError: Failed to read port info after 30.0 "
        "seconds"
    ]
    assert [call for call, _, _ in stand_in] == ["init", "log", "finish"]


def test_a_required_tracker_that_cannot_be_opened_ends_the_run_and_closes_the_others(tmp_path, stand_in, monkeypatch):
    monkeypatch.setitem(services_module.SERVICES, "wandb", lambda *args: 1 / 0)
    with pytest.raises(InputError, match=r"tracking=wandb cannot be opened.*tracking.required=false"):
        Services.start(["trackio", "wandb"], tmp_path, "p", {}, required=True)
    assert [call for call, _, _ in stand_in] == ["init", "finish"]


def test_wandbs_process_has_time_to_start_unless_the_user_says_how_much(tmp_path, stand_in, monkeypatch):
    monkeypatch.setattr("os.environ", {})
    Services.start(["wandb"], tmp_path, "p", {})
    assert os.environ == {"WANDB__SERVICE_WAIT": "300"}
    monkeypatch.setattr("os.environ", {"WANDB_X_SERVICE_WAIT": "7"})
    Services.start(["wandb"], tmp_path, "p", {})
    assert os.environ == {"WANDB_X_SERVICE_WAIT": "7"}


def test_a_package_that_is_not_installed_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else object())
    check_packages(Tracking(to=["tensorboard", "mlflow"]))
    with pytest.raises(UsageError, match=r"wandb is not installed.*pip install wandb.*tracking=tensorboard"):
        check_packages(Tracking(to=["tensorboard", "wandb"]))


def test_a_continued_run_has_its_old_id(tmp_path):
    assert stable_id(tmp_path / "a b") == stable_id(tmp_path / "a b") != stable_id(tmp_path / "other" / "a b")


def wandb_records(file):
    """The records of a `.wandb` file: 7 bytes of header, then LevelDB's log, blocks of 32 KiB with records in fragments."""
    data, place, record = file.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or its last fragment
            yield record
            record = b""


def test_wandbs_own_file_holds_every_scalar(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="the optional package wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    rows = train(tmp_path / "r", "wandb")
    found: dict[int, dict] = {}
    for file in sorted((tmp_path / "r" / "wandb").glob("offline-run-*/*.wandb")):
        for data in wandb_records(file):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            if record.HasField("history"):
                row = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item
                }
                found[row["_step"]] = {key: value for key, value in row.items() if not key.startswith("_")}
    assert found == rows


def test_mlflows_file_store_holds_every_scalar(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="the optional package mlflow is not installed")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    rows = train(tmp_path / "r", "mlflow")
    client = mlflow.MlflowClient((tmp_path / "r" / "mlruns").as_uri())
    run_id = (tmp_path / "r" / "mlflow_run_id").read_text()
    found: dict[int, dict] = {}
    for key in client.get_run(run_id).data.metrics:
        for point in client.get_metric_history(run_id, key):
            found.setdefault(point.step, {})[key] = point.value
    assert found == {step: {mlflow_name(key): value for key, value in row.items()} for step, row in rows.items()}


def test_trackios_data_base_holds_every_scalar(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio", reason="the optional package trackio is not installed")
    rows = train(tmp_path / "r", "trackio")
    (file,) = (tmp_path / "trackio").glob("*.db")
    with sqlite3.connect(file) as base:
        found = {step: json.loads(metrics) for step, metrics in base.execute("select step, metrics from metrics")}
    assert found == rows
