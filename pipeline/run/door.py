"""What can be run. Standard library alone: `bash run.sh` answers before any environment exists.

`run.sh` also asks this module to check the names of stages and presets before it spends minutes on an installation.
"""

import os
import re
import sys
from pathlib import Path

from pipeline.common.benches import BENCHES
from pipeline.common.names import unknown

ROOT = Path(__file__).resolve().parents[2]

STAGES = {
    "all": "preprocess, sft, convert, evaluate, rl, export, evaluate, report, one after the other",
    "preprocess": "clean, deduplicate and decontaminate the problems; tokenizer",
    "sft": "supervised warm-up with DeepSpeed ZeRO",
    "convert": "Hugging Face weights to a Megatron checkpoint",
    "rollout": "generate offline: shards with rewards and pass rates",
    "rl": "reinforcement learning on the Megatron-core actor",
    "replay": "make the update of a step again (step=812) and compare every metric",
    "evaluate": "avg@k, pass@k and greedy accuracy on held-out problems (evaluate.checkpoint=before|after)",
    "export": "Megatron checkpoint to Hugging Face weights",
    "report": "one HTML file with curves and sample rollouts, and an audit of the rewards",
    "compare": "algorithms over paired seeds: intervals, power and a verdict (compare.algos=[etr,grpo_matched])",
    "plan": "print the layout, the memory estimate and every command; run nothing",
    "bench": "benchmarks, listed below; bench.compare=<earlier json> compares two runs",
    "doctor": "is this machine ready? check=gpu proves the GPU path, check=cluster the nodes",
    "test": "run the tests (tests=<file or folder> for some of them)",
}
"""Stages by name, in the order in which people need them."""

GROUPS = ("model", "algo", "data", "cluster")
"""Preset groups: `configs/<group>/<name>.yaml`, chosen by `<group>=<name>`."""

NEEDS_NO_MODEL = frozenset({"bench", "doctor", "test"})
"""Stages that use the tiny preset if none is named."""
FORGETFUL = NEEDS_NO_MODEL | {"compare"}
"""Stages that do not start from the settings of the run `name=`. A comparison has runs of its own, each with its settings."""


def preset_names(group: str) -> list[str]:
    """Names of the presets in `configs/<group>`, smallest model first."""
    names = sorted(path.stem for path in (ROOT / "configs" / group).glob("*.yaml"))
    return sorted(names, key=_billions) if group == "model" else names


def _billions(name: str) -> float:
    """Parameters as a model's name states them: 30b-a3b -> 30, tiny -> 0."""
    size = re.search(r"(\d+(?:\.\d+)?)b\b", name)
    return float(size[1]) if size else 0.0


def usage() -> str:
    """What `bash run.sh` prints: stages, models, and examples."""
    width = max(map(len, STAGES))
    lines = ["bash run.sh stage=<stage> model=<preset> [key=value ...]", "", "Stages"]
    lines += [f"  {name:<{width}}  {text}" for name, text in STAGES.items()]
    wide = max(map(len, BENCHES))
    lines += [
        "",
        "Benchmarks (stage=bench)",
        *(f"  what={name:<{wide}}  {bench.text}" for name, bench in BENCHES.items()),
    ]
    lines += ["", "Models", f"  {'  '.join(preset_names('model'))}", "", "Other presets"]
    lines += [f"  {group + '=':<9}{'  '.join(preset_names(group))}" for group in GROUPS[1:]]
    lines += [
        "",
        "Any setting is a dotted key (algo.alpha=0.3); pipeline/settings/ describes them all. Examples",
        "  bash run.sh stage=all model=tiny                       # the whole pipeline on two CPU cores",
        "  bash run.sh stage=rl model=tiny algo=grpo seed=1       # one stage, another objective, another seed",
        "  bash run.sh stage=rl name=tiny rl.steps=80             # a run again, from its own settings",
        "  bash run.sh stage=evaluate model=/models/mine data.eval=aime24.jsonl   # accuracy of a model, nothing else",
        "  bash run.sh stage=rl model=32b dry_run=true            # layout, memory and commands; runs nothing",
    ]
    return "\n".join(lines)


def is_folder(model: str) -> bool:
    """Whether `model=` names a Hugging Face folder, relative to where the command was typed, instead of a preset."""
    if not model or model.endswith((".yaml", ".yml")) or is_gguf(model):
        return False
    return "/" in model or typed(model).is_dir()


def is_gguf(model: str) -> bool:
    """Whether `model=` names a GGUF file, of which `pipeline.run.gguf` makes a folder."""
    return model.lower().endswith(".gguf")


def typed(path: str) -> Path:
    """A path of the command line, relative to the folder that it was typed in."""
    return Path(os.environ.get("ETR_FOLDER", "."), Path(path).expanduser())


def record_of(chosen: dict[str, str]) -> Path | None:
    """The record of settings that a command line starts from: `config=<file>`, or without model= that of the run `name=`."""
    if "config" in chosen:
        return typed(chosen["config"])
    if "model" in chosen or not chosen.get("name") or chosen.get("stage") in FORGETFUL:
        return None
    runs = typed(chosen["runs_dir"]) if chosen.get("runs_dir") else ROOT / "runs"
    record = runs / chosen["name"] / "config.yaml"
    return record if record.is_file() else None


def check_names(words: list[str]) -> str | None:
    """The first thing wrong with the names of stage and presets on a command line, or None. Of a key given twice the last
    counts."""
    chosen: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not key:
            if word in STAGES:
                return f"{word}: expected key=value. Did you mean stage={word}?"
            if word in preset_names("model"):
                return f"{word}: expected key=value. Did you mean model={word}?"
            return f"{word}: expected key=value, for example stage=rl model=tiny. `bash run.sh` lists what can be run."
        chosen[key] = value
    stage = chosen.get("stage")
    if stage is None:
        return f"stage= is missing. Allowed: {', '.join(STAGES)}"
    if stage not in STAGES:
        return unknown("stage", stage, STAGES)
    if "config" in chosen and "model" in chosen:
        return f"config={chosen['config']} has a model already. Remove config= or model={chosen['model']}."
    if "model" not in chosen and stage not in NEEDS_NO_MODEL and record_of(chosen) is None:
        named = chosen.get("name") and stage not in FORGETFUL
        unmade = f" The run name={chosen['name']} has left no config.yaml to take it from." if named else ""
        return (
            f"model= is missing.{unmade} Allowed: {', '.join(preset_names('model'))}, a file of your own (model=my.yaml), or"
            " the folder of a Hugging Face model, or a GGUF file."
        )
    for group in GROUPS:
        value = chosen.get(group, "")
        if group == "model" and (is_folder(value) or is_gguf(value)):
            continue
        if group in chosen and not value.endswith((".yaml", ".yml")) and value not in preset_names(group):
            return unknown(group, value, preset_names(group))
    return None


def main(words: list[str]) -> int:
    """Prints the usage (without words, or if help is asked for) or checks the names; returns the exit code."""
    if not words or words[0] in ("help", "-h", "--help"):
        print(usage())
        return 0
    problem = check_names(words)
    if problem:
        print(problem, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
