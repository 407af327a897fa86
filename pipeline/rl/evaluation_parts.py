"""What a killed evaluation has measured: the same command goes on with the sets that are left."""

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from pipeline.common.errors import InputError
from pipeline.common.files import read_json, write_json

Row = dict[str, Any]


class Parts:
    """A file for each set that is measured. It counts only under the identity with which it was written.

    Args:
        folder: where the files are; removed by `clear`.
        identity: everything that all results depend on: checkpoint, sampling, grading.
    """

    def __init__(self, folder: Path, identity: Row) -> None:
        self._folder, self._identity = folder, identity

    def read(self, name: str, identity: Row) -> tuple[Row, list[Row]] | None:
        """Statistics and rows of a set; None if it has to be measured. `identity` is that of the set alone."""
        path = self._folder / f"{name}.json"
        try:
            found = read_json(path) if path.exists() else {}
        except InputError:  # torn
            return None
        same = isinstance(found, dict) and found.get("identity") == self._digest(identity)
        return (found["statistics"], found["rows"]) if same else None

    def write(self, name: str, identity: Row, statistics: Row, rows: list[Row]) -> None:
        content = {"identity": self._digest(identity), "statistics": statistics, "rows": rows}
        write_json(self._folder / f"{name}.json", content)

    def clear(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)

    def _digest(self, identity: Row) -> str:
        return hashlib.sha256(json.dumps([self._identity, identity], sort_keys=True).encode()).hexdigest()
