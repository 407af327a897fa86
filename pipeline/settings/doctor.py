"""Checks of the machine and of the cluster."""

from typing import Literal

from pipeline.settings.base import Section


class Doctor(Section):
    """`stage=doctor check=...`."""

    check: Literal["machine", "cluster"] = "machine"
    """machine: versions, devices, patches. cluster: whether these
    nodes can work together; started on every node."""
