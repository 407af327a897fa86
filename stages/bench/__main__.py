"""Measurements: `stage=bench what=policy_head|objective|verifier|rollout|step|step_peer`. Prints a table and writes JSON."""

import importlib

from pipeline.common.errors import UsageError
from pipeline.common.files import write_json
from pipeline.stage import StageRun, run_stage

BENCHES = {
    "policy_head": "stages.bench.policy_head",
    "objective": "stages.bench.objective",
    "verifier": "stages.bench.verifier",
    "rollout": "stages.bench.rollout",
    "step": "stages.bench.step",
    "step_peer": "stages.bench.step_peer",
}


def main(run: StageRun) -> dict:
    what = run.settings.bench.what
    if what not in BENCHES:
        raise UsageError(f"what={what}: there is no such measurement. Allowed: {', '.join(BENCHES)}")
    result = importlib.import_module(BENCHES[what]).bench(run.settings)
    if run.is_main:
        path = run.folder() / f"{what}.json"
        write_json(path, result)
        run.log(f"written to {path}")
    return {"what": what}


if __name__ == "__main__":
    run_stage(main)
