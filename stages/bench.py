"""Measurements: `stage=bench what=policy_head|objective|verifier|rollout|step|step_peer`. Prints a table and writes JSON."""

import importlib

from pipeline.artifacts import write_json
from pipeline.errors import UsageError
from pipeline.stage import StageRun, run_stage

BENCHES = {
    "policy_head": "megatron_patches.policy_head.bench",
    "objective": "pipeline.objectives.bench",
    "verifier": "pipeline.verify.bench",
    "rollout": "megatron_patches.generation.bench",
    "step": "megatron_patches.step_bench",
    "step_peer": "megatron_patches.step_peer_bench",
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
