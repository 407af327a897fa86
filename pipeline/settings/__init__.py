"""All settings, in one tree of typed sections.

Defaults are here and nowhere else; presets in `configs/` give only what differs. The modules import pydantic and
`pipeline.common` alone, so that a command line is checked in a fraction of a second, before torch is imported.
"""

from pydantic import Field, field_validator

from pipeline.settings.algo import Algo
from pipeline.settings.base import Section
from pipeline.settings.cluster import Cluster, Speed
from pipeline.settings.compare import Compare
from pipeline.settings.data import Arithmetic, Clean, Columns, Data
from pipeline.settings.doctor import Doctor
from pipeline.settings.model import Experts, Layout, Model, Rope
from pipeline.settings.plan import Plan
from pipeline.settings.serving import Bench, Evaluate, Export, Report, Rollout, Verify
from pipeline.settings.tracking import Profile, Tracking
from pipeline.settings.training import Optimizer, Replay, Rl, Sft, SftPhase

__all__ = [
    "Algo", "Arithmetic", "Bench", "Clean", "Cluster", "Columns", "Compare", "Data", "Doctor", "Evaluate", "Experts",
    "Export", "Layout", "Model", "Optimizer", "Plan", "Profile", "Replay", "Report", "Rl", "Rollout", "Rope", "Section",
    "Settings", "Sft", "SftPhase", "Speed", "Tracking", "Verify",
]  # fmt: skip


class Settings(Section):
    """The resolved configuration of one run, as it is written to `runs/<name>/config.yaml`."""

    stage: str
    """The stage that was asked for."""
    model_name: str
    """Name of the model preset, for people and file names; the sections hold what the run uses."""
    algo_name: str
    """Name of the algorithm preset."""
    data_name: str
    """Name of the data preset."""
    cluster_name: str
    """Name of the cluster preset."""
    name: str
    """Folder under `runs_dir`. Default: the model, then what differs from its defaults (`tiny-grpo-seed1`)."""
    runs_dir: str = "runs"
    """Folder of all runs."""
    seed: int = Field(0, ge=0, le=2**32 - 1)
    """Seed of everything random: generated data, random weights, sampling, shuffles."""
    force: bool = False
    """Run a stage again although its manifest matches."""
    dry_run: bool = False
    """Resolve, check and print every command of every node; run none."""
    model: Model
    """The model."""
    layout: Layout
    """The chosen entry of `model.layouts`, with overrides (`layout.tp=4`)."""
    algo: Algo = Algo()
    """The objective."""
    data: Data = Data()
    """Problems and prompts."""
    cluster: Cluster = Cluster()
    """The machines."""
    sft: Sft = Sft()
    """Supervised warm-up."""
    rl: Rl = Rl()
    """Reinforcement learning."""
    rollout: Rollout = Rollout()
    """Sampling of responses."""
    verify: Verify = Verify()
    """Grading of responses."""
    evaluate: Evaluate = Evaluate()
    """Held-out accuracy."""
    export: Export = Export()
    """Hugging Face weights."""
    report: Report = Report()
    """The report and its audit of rewards."""
    replay: Replay = Replay()
    """A step made again."""
    tracking: Tracking = Tracking()
    """Where metrics go besides metrics.jsonl."""
    profile: Profile = Profile()
    """Traces of single steps."""
    bench: Bench = Bench()
    """Measurements."""
    plan: Plan = Plan()
    """Rehearsal of a planned run."""
    compare: Compare = Compare()
    """Comparison of algorithms."""
    doctor: Doctor = Doctor()
    """Checks of machine, GPU and cluster."""

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if name.strip() in ("", ".", "..") or "/" in name or not name.isprintable() or len(name.encode()) > 200:
            shown = name if name.isprintable() else repr(name)
            shown = shown if len(shown) <= 60 else shown[:57] + "..."
            raise ValueError(
                f"name={shown}: a run's name is one folder name of at most 200 bytes, without slashes, line breaks or"
                " other control characters. Give name=<a shorter or simpler one>"
            )
        return name
