"""TensorBoard event files, written with tensorboard's own protocol buffers: importing torch's writer takes seconds."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from pipeline.common.files import naming
from pipeline.tracking.values import is_histogram, number


class Events:
    """Scalars and histograms of one run. The file is made at the first `add`.

    Args:
        folder: where the event files go; each process that writes makes one.
        purge_step: TensorBoard drops what earlier files hold of this step and later ones (resume).
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        self.folder, self._purge_step = folder, purge_step
        self._writer: Any = None

    def add(self, step: int, wall_time: float, metrics: Mapping[str, Any]) -> None:
        """One step's metrics; values that are neither finite numbers nor histograms are left out."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import HistogramProto, Summary

        values = []
        for name, value in metrics.items():
            if is_histogram(value):
                values.append(Summary.Value(tag=name, histo=HistogramProto(**_histogram(value))))
            elif (figure := number(value)) is not None:
                values.append(Summary.Value(tag=name, simple_value=figure))
        with naming(self.folder):
            self._open().add_event(Event(wall_time=wall_time, step=step, summary=Summary(value=values)))

    def flush(self) -> None:
        if self._writer is not None:
            with naming(self.folder):
                self._writer.flush()

    def close(self) -> None:
        if self._writer is not None:
            writer, self._writer = self._writer, None
            with naming(self.folder):
                writer.close()

    def _open(self) -> Any:
        if self._writer is None:
            from tensorboard.compat.proto.event_pb2 import Event, SessionLog
            from tensorboard.summary.writer.event_file_writer import EventFileWriter

            self.folder.mkdir(parents=True, exist_ok=True)
            self._writer = EventFileWriter(str(self.folder))
            if self._purge_step is not None:
                self._writer.add_event(Event(step=self._purge_step, session_log=SessionLog(status=SessionLog.START)))
        return self._writer


def _histogram(value: dict[str, list[float]]) -> dict[str, Any]:
    """TensorBoard's fields: right edges of the bins, and moments, which are computed from the middles of the bins."""
    edges, counts = value["edges"], value["counts"]
    middles = [(low + high) / 2 for low, high in pairwise(edges)]
    return {
        "min": edges[0],
        "max": edges[-1],
        "num": sum(counts),
        "sum": sum(middle * count for middle, count in zip(middles, counts, strict=True)),
        "sum_squares": sum(middle * middle * count for middle, count in zip(middles, counts, strict=True)),
        "bucket_limit": edges[1:],
        "bucket": counts,
    }
