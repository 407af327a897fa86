"""The command line: `bash run.sh stage=<stage> model=<preset> [key=value ...]` ends here.

Composes the settings, decides which stages have to run, starts each, and keeps the run's records. Exit codes: 0 done;
2 wrong usage or configuration; 3 an input or an earlier stage is missing or broken; 1 anything else.
"""

import contextlib
import fcntl
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import yaml

from pipeline.common.errors import UsageError, UserError
from pipeline.common.files import write_text
from pipeline.run import arms, checks, door, gguf, interfaces, machines, manifests, record
from pipeline.run.catalog import ORDER, STAGES, Job, variant_of
from pipeline.run.compose import SHORT, compose, derived_preset
from pipeline.run.launch import command, config_path
from pipeline.run.plan import PLAN_ALONE
from pipeline.run.watchdog import Watchdog
from pipeline.settings import Settings
from pipeline.settings.derive import describe as describe_derived
from pipeline.settings.derive import to_yaml
from pipeline.settings.engine import check_backend, check_installed
from pipeline.settings.tracking import check_packages
from pipeline.stage import AGAIN, disk_full, explain

ROOT = door.ROOT


def main(words: list[str]) -> int:
    """Runs a command line; returns the exit code. Errors are printed, not raised."""
    if not words or words[0] in ("help", "-h", "--help"):
        print(door.usage())
        return 0
    try:
        return _main(_last_of_each(words))
    except (UserError, OSError, KeyboardInterrupt) as error:
        code, message = explain(error)
        print(message, file=sys.stderr)
        return code


def _main(words: list[str]) -> int:
    if "stage=test" in words:
        return _test(words)
    words = gguf.with_folders(words, _say)
    settings = compose(words)
    os.chdir(ROOT)
    jobs = list_jobs(words, settings)
    derived = derived_preset(words)
    if derived is not None:
        _say(describe_derived(derived))
    check_training_data(settings, jobs)
    if settings.plan.search:
        from pipeline.run.search import search

        print(search(next((job.settings for job in jobs if job.stage.name == "rl"), settings)))
        return 0
    for job in jobs:
        checks.check(job, run_root(job.settings))
    compared = arms.check(settings, words, run_root(settings)) if settings.stage == "compare" else []
    if settings.dry_run or settings.stage == "plan":
        from pipeline.run.plan import describe
        from pipeline.run.rehearsal import ranks_of, rehearsal, rehearsal_of_warm_up

        actor = next((job.settings for job in jobs if job.stage.name == "rl"), settings)
        if settings.plan.rehearse:
            ranks_of(actor, settings.plan.ranks)  # a rank that is not there is refused before pages are printed
        print(describe(jobs, words))
        if compared:
            print(arms.describe(settings, compared))
        seconds = None
        if settings.plan.rehearse:
            text, seconds = rehearsal(actor, settings.plan.ranks)
            print("\n" + text)
            for job in jobs:
                if job.stage.name == "sft" and job.settings.sft.enabled:
                    print("\n" + rehearsal_of_warm_up(job.settings, settings.plan.ranks))
        if settings.plan.lengths is not None:
            from pipeline.run.foresight import foresee

            print("\n" + foresee(actor, settings.plan, seconds))
        return 0
    if len({job.stage.name for job in jobs}) > 1 and settings.cluster.nnodes > 1:
        raise UsageError(
            f"stage={settings.stage} runs {', '.join(job.label for job in jobs)}, which is for one node. On several, start each"
            " stage by itself, so that no node waits in a stage that another node skips. docs/cluster.md has the loop."
        )
    if derived is not None and settings.cluster.node_rank == 0:
        preset = Path(settings.runs_dir) / settings.name / "model.yaml"
        write_text(ROOT / preset, to_yaml(derived))
        _say(f"the derived preset is {preset}; to change it, give a changed copy as model=")
    for job in jobs:
        code = run_job(job, words, more=job is not jobs[-1])
        if code:
            return code
    return 0


def _test(words: list[str]) -> int:
    """The test suite but for what is marked `long`, or all tests of the file or folder that `tests=` names, relative to
    where the command was typed."""
    chosen = [word.removeprefix("tests=") for word in words if word.startswith("tests=")]
    compose([word for word in words if not word.startswith("tests=")])  # refuses wrong names and keys
    typed = Path(os.environ.get("ETR_FOLDER", "."))
    paths = [str((typed / path).absolute()) if (typed / path.partition("::")[0]).exists() else path for path in chosen]
    chosen = paths or ["-m", "not long"]
    code = subprocess.run([sys.executable, "-m", "pytest", *chosen], cwd=ROOT, stdin=subprocess.DEVNULL).returncode
    return 1 if code else 0  # pytest's own 2 and 3 mean something else than ours


def list_jobs(words: list[str], settings: Settings) -> list[Job]:
    """The jobs of a command line, in order, each with its own resolved settings."""
    if settings.stage in ("all", "plan"):
        words = [word for word in words if not word.startswith(PLAN_ALONE)]
        return [_job(words, name) for name in ORDER]
    if (
        settings.stage == "evaluate"
        and settings.data.only_evaluates
        and not settings.evaluate.other_sets
        and settings.evaluate.checkpoint in ("auto", "before")
    ):
        return [_job(words, name) for name in ("preprocess", "convert", "evaluate:before")]
    if settings.stage == "evaluate" and settings.evaluate.checkpoint == "auto":
        trained = manifests.load(run_root(settings), "rl") is not None
        return [_job(words, f"evaluate:{when}") for when in (("before", "after") if trained else ("before",))]
    return [_job(words, settings.stage)]


def check_training_data(settings: Settings, jobs: list[Job]) -> None:
    """Checks that a command without training data needs none.

    Raises:
        UsageError: `stage=all` has nothing to train on, or an evaluation would replace the problems of a run that has.
    """
    data = settings.data
    if settings.stage == "all" and data.only_evaluates:
        raise UsageError(
            "data.path is empty: stage=all trains. Name your problems (data.path=problems.jsonl), or measure the model alone:"
            " stage=evaluate data.eval=<file>."
        )
    before = manifests.load(run_root(settings), "preprocess") if jobs[0].stage.name == "preprocess" else None
    config = (before or {}).get("config", {})
    trains = config.get("data.path") or config.get("data.source") == "arithmetic"
    if settings.stage == "evaluate" and data.only_evaluates and trains:
        raise UsageError(
            f"The run name={settings.name} has training problems, and this command names none. Leave out model= to use the"
            " settings of that run, or give another name=... to evaluate the model alone."
        )


def _job(words: list[str], name: str) -> Job:
    stage, _, variant = name.partition(":")
    if variant:
        words = [word for word in words if not word.startswith("evaluate.checkpoint=")]
        words = [*words, f"evaluate.checkpoint={variant}"]
    settings = compose(words, stage)
    if stage == "evaluate":
        variant = variant_of(settings)
    return Job(STAGES[stage], settings, variant or None)


def run_root(settings: Settings) -> Path:
    """`runs/<name>`; a relative `runs_dir` is relative to the project's folder."""
    return ROOT / settings.runs_dir / settings.name


def run_job(job: Job, words: list[str], more: bool = False) -> int:
    """Runs one stage unless its manifest matches; returns its exit code. `more`: other stages are to follow."""
    root, settings = run_root(job.settings), job.settings
    if job.stage.name == "sft" and not settings.sft.enabled:
        _say("sft: skipped (sft.enabled=false): RL starts from the base model")
        return 0
    if job.stage.name in ("rollout", "rl", "evaluate"):
        check_installed(settings)
    if job.stage.uses_layout:
        check_backend(settings)
    if job.stage.name == "rl" and settings.cluster.node_rank == 0:
        check_packages(settings.tracking)
    main_node = settings.cluster.node_rank == 0
    if not job.on_every_node and not main_node:
        _say(f"{job.label}: runs on node 0 only")
        return 0
    manifests.require(job, root, _again(words))
    with _alone(root / job.stage.name, job):
        return _run_alone(job, root, _again(words), more)


def _run_alone(job: Job, root: Path, again: str, more: bool) -> int:
    """The rest of `run_job`, while no other process runs this stage of this run."""
    from pipeline.run import summary, supervise

    settings, main_node = job.settings, job.settings.cluster.node_rank == 0
    state = manifests.state_of(job, root)
    reason = manifests.why_run(job, root, state)
    if reason is None:
        _say(f"{job.label}: skipped, its manifest matches (force=true runs it again)")
        return 0
    if job.launcher != "plain":
        machines.check_devices(settings.cluster)
        machines.check_port(settings.cluster)
        interfaces.check(settings.cluster)
    if main_node:
        for path in manifests.prepare(job, root, state):
            _say(f"{job.label}: earlier results moved aside to {path}")
        summary.write_environment(root)
    _write_config(job, root)
    _say(f"{job.label}: {reason}" if job.outputs and reason != "it has not finished before" else job.label)
    size = 1 if job.launcher == "plain" else settings.cluster.devices_per_node
    ranks = range(settings.cluster.node_rank * size, (settings.cluster.node_rank + 1) * size)
    started = time.monotonic()
    start = command(job, root, settings.cluster.node_rank)
    start.env[AGAIN] = again
    ending = supervise.run(start, ROOT, root / job.stage.name, ranks, job.stage.stops, _watchdog(job, ranks))
    seconds = time.monotonic() - started
    if ending.stopped:
        _say(f"{job.label}: stopped after {seconds:.0f} s; the same command continues")
        return 1
    if ending.code:
        sys.stdout.flush()
        if ending.message:
            print(ending.message, file=sys.stderr, flush=True)
        return ending.code
    if main_node and job.outputs:
        manifests.save(job, root, state, seconds, ending.result)
        summary.write_summary(root)
    _say(f"{job.label}: done in {seconds:.1f} s")
    if ending.asked and more:
        _say("stopped before the next stage; the same command continues")
        return 1
    return 0


def _watchdog(job: Job, ranks: range) -> Watchdog | None:
    """For stages whose ranks wait for each other."""
    cluster = job.settings.cluster
    if job.launcher == "plain":
        return None
    return Watchdog(ranks, cluster.nnodes * cluster.devices_per_node, 60 * cluster.timeout_minutes, say=_say)


@contextlib.contextmanager
def _alone(folder: Path, job: Job) -> Iterator[None]:
    """Holds this node's lock on a stage's folder; the kernel frees it however the process ends.

    Raises:
        UsageError: the same stage of the same run is running, or the folder cannot be written to.
    """
    settings = job.settings
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / f"lock.node{settings.cluster.node_rank}", "w")  # noqa: SIM115
    except OSError as error:
        if disk_full(error):
            raise
        raise UsageError(
            f"runs_dir={settings.runs_dir}: {folder} cannot be written to ({error.strerror}). Choose another folder."
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(
                f"stage={job.stage.name} of name={settings.name} is running already, in another process. Wait for it, or"
                " give another name=... for a second run."
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def _write_config(job: Job, root: Path) -> None:
    """Writes the resolved config into the stage's folder, where its ranks read it, and into the run's record."""
    values = job.settings.model_dump(mode="json")
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_text(config_path(job, root, job.settings.cluster.node_rank), text)
    if job.settings.cluster.node_rank == 0:
        record.write(root / "config.yaml", job)


def _again(words: list[str]) -> str:
    """The same command line with `{stage}` for its stage; other braces are doubled, for `str.format`."""
    words = [shlex.quote(word) for word in words if not word.startswith(("stage=", "force="))]
    kept = [word.replace("{", "{{").replace("}", "}}") for word in words]
    return " ".join(["bash run.sh", "stage={stage}", *kept])


def _last_of_each(words: list[str]) -> list[str]:
    """The arguments without those that a later one replaces, each of which is reported.

    A script that ends in `"$@"` sets defaults of its own: its user must be able to change them.
    """
    kept: dict[str, str] = {}
    for word in words:
        key, equals, value = word.partition("=")
        full = SHORT.get(key, key) if equals and key != "tests" else word  # stage=test takes several tests=
        if full in kept and kept[full] != word:
            _say(f"{key} is given twice: {value} replaces {kept[full].partition('=')[2]}")
        kept.pop(full, None)
        kept[full] = word
    return list(kept.values())


def _say(text: str) -> None:
    print(f"[run] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
