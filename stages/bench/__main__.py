"""Measurements: `stage=bench what=<name>`. Prints a table and writes JSON; `pipeline/common/benches.py` lists them.

The JSON holds the result, the times of every repeat, and where they were measured, so that a later run can be compared
with it (`bench.compare=<json>`).
"""

import importlib
from typing import Any

from rich.console import Console

from pipeline.common.benches import BENCHES, module_of
from pipeline.common.errors import UsageError
from pipeline.common.files import write_json
from pipeline.run.summary import environment
from pipeline.settings import Settings
from pipeline.stage import StageRun, run_stage
from stages.bench import compare

IGNORED = {"what", "compare", "peer_python", "repeats"}
"""Settings of `bench` that do not change the work."""
RARE = 0.02
"""Above this probability of a wrong "slower" the comparison says so; five repeats in both runs give 0.004."""


def main(run: StageRun) -> dict:
    bench = run.settings.bench
    if bench.what not in BENCHES:
        raise UsageError(f"what={bench.what}: there is no such measurement. Allowed: {', '.join(BENCHES)}")
    # Read before measuring: the file may be the one that this run replaces, and a wrong name should not cost minutes.
    earlier = compare.load(bench.compare, bench.what) if bench.compare else None
    result = importlib.import_module(module_of(bench.what)).bench(run.settings)
    if not run.is_main:
        return {}
    record = {"what": bench.what, "environment": environment(), "settings": work_of(run.settings)} | result
    path = run.folder() / f"{bench.what}.json"
    write_json(path, record)
    run.log(f"written to {path}")
    return {"what": bench.what} | (beside(run, earlier, record) if earlier else {})


def work_of(settings: Settings) -> dict[str, Any]:
    """The settings that say how much work was done, by dotted key."""
    sizes = {f"bench.{key}": value for key, value in settings.bench.model_dump().items() if key not in IGNORED}
    layout = {f"layout.{key}": value for key, value in settings.layout.model_dump().items()}
    work = {"model": settings.model_name, "cluster.devices_per_node": settings.cluster.devices_per_node}
    work |= {"cluster.nnodes": settings.cluster.nnodes, "rl.prompts_per_step": settings.rl.prompts_per_step}
    work |= {"rl.group_size": settings.rl.group_size, "rollout.max_new_tokens": settings.rollout.max_new_tokens}
    return work | sizes | layout


def beside(run: StageRun, earlier: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """Prints the comparison; returns the rows that are slower and faster by more than the noise."""
    rows = compare.compare(earlier["samples"], record["samples"])
    for line in compare.differences(earlier, record):
        run.log(f"differs: {line}")
    Console().print(compare.table(rows))
    chance = max((row.chance for row in rows), default=0.0)
    if chance > RARE:
        run.log(
            f"few repeats: equal runs are called slower {chance:.0%} of the time. Use bench.repeats=5 or more in both."
        )
    named = {verdict: [row.name for row in rows if row.verdict == verdict] for verdict in ("slower", "faster")}
    for verdict, names in named.items():
        run.log(f"{verdict} by more than the noise: {', '.join(names) or 'no row'}")
    return named


if __name__ == "__main__":
    run_stage(main)
