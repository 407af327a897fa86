"""What is written down while a run goes on, and what is made of it afterwards.

    tracker = Tracker(root, total_steps, enabled=rank == 0)
    start = tracker.resume(step)                       # after a kill: rows of later steps are dropped
    with tracker.phase("generate"): ...                # seconds/generate of the next row
    tracker.log(step, {"reward/mean": 0.5, "hist/scale": {"edges": [...], "counts": [...]}})

`progress` shows how far any other long work is; `statistics` holds avg@k, pass@k and their intervals; `report` makes
one HTML file of a run. Nothing here imports torch.
"""

from pipeline.tracking.progress import Progress
from pipeline.tracking.tracker import Tracker

__all__ = ["Progress", "Tracker"]
