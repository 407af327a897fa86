"""Traces of single steps: torch's profiler, and on GPUs the history of the memory. Imports torch when a step is traced."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

MEMORY_EVENTS = 200_000
"""Allocations that a memory snapshot holds; later ones replace the first."""


class Profiler:
    """Traces the chosen steps of one rank into `folder`: `step<n>.trace.json.gz` opens in Perfetto or chrome://tracing,
    `step<n>.memory.pickle` at pytorch.org/memory_viz."""

    def __init__(self, steps: Collection[int], folder: Path, enabled: bool = True) -> None:
        self._steps, self._folder = frozenset(steps) if enabled else frozenset(), folder
        self._trace: Any = None

    def begin(self, step: int) -> None:
        """Starts to trace if `step` is one of the chosen."""
        if step not in self._steps:
            return
        import torch
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU]
        if torch.cuda.is_available():
            activities.append(ProfilerActivity.CUDA)
            torch.cuda.memory._record_memory_history(max_entries=MEMORY_EVENTS)
        self._trace = profile(activities=activities)
        self._trace.start()

    def end(self, step: int) -> list[Path]:
        """Writes the trace that `begin` started; returns the files, none if it started none."""
        if self._trace is None:
            return []
        import torch

        trace, self._trace = self._trace, None
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # kernels of this step may still run
        trace.stop()
        self._folder.mkdir(parents=True, exist_ok=True)
        files = [self._folder / f"step{step}.trace.json.gz"]
        trace.export_chrome_trace(str(files[0]))
        if torch.cuda.is_available():
            files.append(self._folder / f"step{step}.memory.pickle")
            torch.cuda.memory._dump_snapshot(str(files[1]))
            torch.cuda.memory._record_memory_history(enabled=None)
        return files
