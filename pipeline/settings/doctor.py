"""Checks of the machine and of the cluster."""

from typing import Literal

from pipeline.settings.base import Section


class Doctor(Section):
    """`stage=doctor check=...`."""

    check: Literal["machine", "gpu", "cluster"] = "machine"
    """machine: versions, devices, patches. gpu: proof of the GPU path on one GPU, at most ten minutes. cluster: whether these
    nodes can work together; started on every node."""
