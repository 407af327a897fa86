"""Measurements: `stage=bench what=<name>`. Prints a table and writes JSON; `pipeline/common/benches.py` lists them."""

import importlib

from pipeline.common.benches import BENCHES, module_of
from pipeline.common.errors import UsageError
from pipeline.common.files import write_json
from pipeline.stage import StageRun, run_stage


def main(run: StageRun) -> dict:
    what = run.settings.bench.what
    if what not in BENCHES:
        raise UsageError(f"what={what}: there is no such measurement. Allowed: {', '.join(BENCHES)}")
    result = importlib.import_module(module_of(what)).bench(run.settings)
    if run.is_main:
        path = run.folder() / f"{what}.json"
        write_json(path, result)
        run.log(f"written to {path}")
    return {"what": what}


if __name__ == "__main__":
    run_stage(main)
