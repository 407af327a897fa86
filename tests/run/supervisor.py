"""Runs worker.py under the supervisor as the cli runs a stage: `supervisor.py <folder> <stops> <words...>`."""

import json
import sys
from pathlib import Path

import yaml

from pipeline.run import launch, supervise
from pipeline.run.compose import compose
from pipeline.run.watchdog import Watchdog

folder, stops = Path(sys.argv[1]), sys.argv[2] == "1"
settings = compose(["stage=rl", *sys.argv[3:]])
cluster = settings.cluster
stage = folder / "stage"
stage.mkdir(exist_ok=True)
config = stage / f"config.node{cluster.node_rank}.yaml"
config.write_text(yaml.safe_dump(settings.model_dump(mode="json")))
options = launch.torchrun_options(cluster, cluster.node_rank, str(stage / "logs" / f"node{cluster.node_rank}"))
worker = Path(__file__).with_name("worker.py")
command = launch.Command([sys.executable, "-m", "pipeline.run.torchrun", *options, str(worker), str(config)], {})
size = cluster.devices_per_node
ranks = range(cluster.node_rank * size, (cluster.node_rank + 1) * size)
watchdog = Watchdog(ranks, cluster.nnodes * size, 60 * cluster.timeout_minutes)
ending = supervise.run(command, Path.cwd(), stage, ranks, stops, watchdog)
print(json.dumps({"result": ending.result, "stopped": ending.stopped}), flush=True)
print(ending.message, file=sys.stderr)
sys.exit(ending.code)
