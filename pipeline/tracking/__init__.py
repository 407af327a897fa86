"""The record of a run while it goes on.

    tracker = Tracker(root, total_steps, enabled=rank == 0)
    tracker.resume(step)                       # rows of later steps are dropped
    with tracker.phase("generate"): ...                # seconds/generate of the next row
    tracker.log(step, {"reward/mean": 0.5, "hist/scale": {"edges": [...], "counts": [...]}})

`progress` shows how far long work is; `statistics` holds avg@k, pass@k and their intervals. Nothing here imports torch.
"""

from pipeline.tracking.progress import Progress
from pipeline.tracking.tracker import Tracker

__all__ = ["Progress", "Tracker"]
