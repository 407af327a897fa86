"""Everything that can be set, in one tree of typed sections.

Defaults live here and nowhere else; presets in `configs/` state only what differs. The modules import pydantic alone,
so that a command line is checked in a fraction of a second, before torch is touched.
"""

from pydantic import Field

from pipeline.settings.algo import Algo
from pipeline.settings.base import Section
from pipeline.settings.cluster import Cluster
from pipeline.settings.compare import Compare
from pipeline.settings.data import Arithmetic, Clean, Columns, Data
from pipeline.settings.model import Experts, Layout, Model, Rope
from pipeline.settings.serving import Bench, Evaluate, Export, Rollout, Verify
from pipeline.settings.training import Optimizer, Rl, Sft, SftPhase

__all__ = [
    "Algo", "Arithmetic", "Bench", "Clean", "Cluster", "Columns", "Compare", "Data", "Evaluate", "Experts", "Export", "Layout",
    "Model", "Optimizer", "Rl", "Rollout", "Rope", "Section", "Settings", "Sft", "SftPhase", "Verify",
]  # fmt: skip


class Settings(Section):
    """The resolved configuration of one run, as it is written to `runs/<name>/config.yaml`."""

    stage: str
    model_name: str
    """Preset names, for people and file names; the sections hold the truth."""
    algo_name: str
    data_name: str
    cluster_name: str
    name: str
    """Folder under `runs_dir`. Default: the model, then what differs from the defaults (`tiny-grpo-seed1`)."""
    runs_dir: str = "runs"
    seed: int = Field(0, ge=0)
    force: bool = False
    """Run a stage again although its manifest matches."""
    dry_run: bool = False
    """Resolve, check and print every command of every node; run none."""
    model: Model
    layout: Layout
    """The chosen entry of `model.layouts`, with overrides (`layout.tp=4`)."""
    algo: Algo = Algo()
    data: Data = Data()
    cluster: Cluster = Cluster()
    sft: Sft = Sft()
    rl: Rl = Rl()
    rollout: Rollout = Rollout()
    verify: Verify = Verify()
    evaluate: Evaluate = Evaluate()
    export: Export = Export()
    bench: Bench = Bench()
    compare: Compare = Compare()
