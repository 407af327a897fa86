"""The contract between a stage and the run it belongs to: settings, folders, output, and how it ends.

A stage is a module `stages/x.py` with `def main(run: StageRun) -> dict | None`, closed by
`if __name__ == "__main__": run_stage(main)` and started as `python -m stages.x <resolved config>`: plain, or as one
rank under torchrun or DeepSpeed's launcher. Launchers turn every failure into exit code 1, so each rank also writes an
*outcome file* that says how it ended; `pipeline.run.supervise` reads them.

A stage prints for its user with `run.log`, `print` or a progress bar. What libraries write besides goes to the log of the
rank (`pipeline.common.output`), of which `supervise` shows the end if the rank fails.
"""

import errno
import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from pipeline.common import heartbeat, scratch
from pipeline.common.errors import InputError, UserError
from pipeline.common.files import write_json
from pipeline.common.output import route
from pipeline.common.processes import die_with_parent, end_process, stop_tree, tie_forked_children
from pipeline.settings import Settings

OUTCOME_FOLDER = "ETR_OUTCOME_FOLDER"
"""Environment variable: folder into which each rank writes `rank<k>.json` as it ends."""
LOG_FOLDER = "ETR_LOG_FOLDER"
"""Environment variable: folder into which each rank writes `rank<k>.log`; without it all output goes to the screen."""
STOP_FILE = "ETR_STOP_FILE"
"""Environment variable: once this file exists, the stage should finish its step, save, and return."""
AGAIN = "ETR_AGAIN"
"""Environment variable: the command line that started the run, with `{stage}` instead of its stage."""
PARENT = "ETR_PARENT"
"""Environment variable: process id of the launcher; a rank ends at once if its launcher died while the rank started."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_SIGNS = (
    os.strerror(errno.ENOSPC),
    os.strerror(errno.EDQUOT),
    os.strerror(errno.EFBIG),
    "PytorchStreamWriter failed writing",
    "unexpected pos ",
)
"""Texts by which errors of native code show that the disk is full."""

FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of missing permissions and of read-only disks."""
MISPLACED = (errno.ENOTDIR, errno.EISDIR, errno.EEXIST)
"""Errors of a file where a folder belongs, and the other way round."""

_stopped = False


@dataclass(frozen=True)
class StageRun:
    """One rank's view of the run."""

    settings: Settings
    root: Path
    """`runs/<name>`."""
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """True on rank 0, the one that writes files and prints."""
        return self.rank == 0

    def folder(self, stage: str | None = None) -> Path:
        """`runs/<name>/<stage>`, made if needed; by default that of the current stage."""
        path = self.root / (stage or self.settings.stage)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def command(self, stage: str) -> str:
        """The command that runs another stage of this run, for error messages."""
        own = f"bash run.sh stage={{stage}} model={self.settings.model_name} name={self.settings.name}"
        return os.environ.get(AGAIN, own).format(stage=stage)

    def log(self, text: str) -> None:
        """Prints on the screen, on rank 0."""
        if self.is_main:
            print(text, flush=True)

    def should_stop(self, last: bool = False) -> bool:
        """True once Ctrl-C (or SIGTERM) asked the run to end: finish the step, save, and return from `main`.

        A stage that returns after a True counts as stopped, not as finished, and the same command continues it. After the
        `last` step the answer is always False: the stage saves as usual and counts as finished.

        Collective where `torch.distributed` is initialised: every rank must call it at the same point, with the same
        `last`, and all get the same answer.
        """
        global _stopped
        if last:
            return False
        path = os.environ.get(STOP_FILE)
        _stopped = _stopped or bool(path and os.path.exists(path))
        if self.world_size > 1:
            _stopped = _any_rank(_stopped)
        return _stopped


def run_stage(main: Callable[[StageRun], dict[str, Any] | None]) -> NoReturn:
    """Runs one rank of a stage from `sys.argv` and the launcher's environment, and exits with the stage's code.

    0 done; 2 `UsageError`; 3 `InputError`, a full disk, or missing permissions; 1 anything else. What `main` returns on
    rank 0 goes into the stage's manifest.
    """
    parent = os.environ.pop(PARENT, None)
    die_with_parent(int(parent) if parent else None)
    tie_forked_children()
    logs = os.environ.pop(LOG_FOLDER, None)  # not for processes that this one starts
    logged = logs is not None and route(Path(logs) / f"rank{_rank()}.log")
    faulthandler.enable()  # after `route`: it keeps the file descriptor that it finds
    started = time.time()
    try:
        run = load_run(sys.argv[1:])
        if logs is not None and OUTCOME_FOLDER in os.environ:
            limit = 60 * run.settings.cluster.timeout_minutes
            heartbeat.start(Path(os.environ[OUTCOME_FOLDER]), Path(logs), run.rank, limit)
        result = main(run)
    except BaseException as error:
        code, message = explain(error)
        text = traceback.format_exc() if code == 1 and not isinstance(error, UserError) else ""
        _record({"code": code, "message": message, "traceback": text, "stopped": False}, started)
        if logged or OUTCOME_FOLDER not in os.environ or os.environ.get("LOCAL_RANK", "0") != "0":
            # On the screen, `supervise` prints the error of the rank that failed first, as the last thing of all.
            print(text or message, file=sys.stderr, flush=True)
        # Not sys.exit: other threads (collectives, data workers) could keep a failed rank, and so its peers, waiting.
        stop_tree(os.getpid(), grace_s=0.5, include_root=False)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    _record({"code": 0, "result": result or {}, "stopped": _stopped}, started)
    _leave_process_group()
    heartbeat.end()
    end_process(0)


def load_run(arguments: list[str]) -> StageRun:
    """The run that the resolved config names, at this process's place in the launcher's world.

    Raises:
        InputError: the config file is missing or not a resolved configuration.
    """
    paths = [argument for argument in arguments if not argument.startswith("--")]  # DeepSpeed adds --local_rank=k
    if len(paths) != 1:
        raise InputError(
            "Start a stage as `python -m stages.<stage> <resolved config.yaml>`, or use `bash run.sh stage=<stage>`."
        )
    try:
        settings = Settings.model_validate(yaml.safe_load(Path(paths[0]).read_text("utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{paths[0]} is not a resolved configuration: {error}") from error
    return StageRun(
        settings=settings,
        root=Path(settings.runs_dir) / settings.name,
        rank=_rank(),
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
    )


def explain(error: BaseException) -> tuple[int, str]:
    """Exit code and message for the person at the command line."""
    if isinstance(error, UserError):
        return error.exit_code, str(error)
    if (full := disk_full(error)) is not None:
        return 3, full
    if isinstance(error, OSError) and error.errno in FORBIDDEN and error.filename:
        return 3, (
            f"{error.filename} cannot be read or written ({error.strerror}). Fix its permissions, or choose another folder: "
            "runs_dir=<folder>."
        )
    if isinstance(error, OSError) and error.errno in MISPLACED and error.filename:
        return 3, (
            f"{error.filename} cannot be used ({error.strerror}): there is a file where a folder belongs, or a folder where a "
            "file belongs. Move it away; the same command continues."
        )
    if isinstance(error, OSError) and error.errno == errno.EADDRINUSE:
        return 2, f"A port is in use ({error}). Choose a free one: cluster.master_port=<port>."
    if isinstance(error, KeyboardInterrupt):
        return 1, "Interrupted."
    if isinstance(error, SystemExit):
        return (error.code if isinstance(error.code, int) else 1), str(error.code or "")
    return 1, f"{type(error).__name__}: {error}"


def disk_full(error: BaseException) -> str | None:
    """The message for an error that a full disk caused, however libraries wrapped it; None for any other error.

    torch's archive writer and safetensors keep only the text of the system's error, or not even that; torch's checkpoints
    collect the errors of all ranks in one exception that has `failures`.
    """
    seen: set[int] = set()
    queue: list[tuple[BaseException | None, str | None]] = [(error, None)]
    while queue:
        inner, place = queue.pop()
        if inner is None or id(inner) in seen:
            continue
        seen.add(id(inner))
        # Of a copy, the second file is the one that is written.
        place = getattr(inner, "filename2", None) or getattr(inner, "filename", None) or place
        wrapped = [entry[0] for entry in getattr(inner, "failures", {}).values()]
        queue += [(cause, place) for cause in (inner.__cause__, inner.__context__, *wrapped)]
        code = inner.errno if isinstance(inner, OSError) else None
        text = str(inner)
        if code in FULL or (not isinstance(inner, UserError) and any(sign in text for sign in FULL_SIGNS)):
            where = f" at {place}" if place else ""
            limited = code == errno.EFBIG or os.strerror(errno.EFBIG) in text
            what = "A file would exceed the size limit" if limited else "The disk is full"
            return f"{what}{where}. Free some space; the same command continues from the last checkpoint."
    return None


def _rank() -> int:
    return int(os.environ.get("RANK", "0"))


def _record(outcome: dict[str, Any], started: float) -> None:
    now = time.time()
    outcome |= {"rank": _rank(), "host": os.uname().nodename, "time": now, "seconds": now - started}
    write_outcome(f"rank{_rank()}.json", outcome)


def write_outcome(name: str, content: Any) -> None:
    """Writes an outcome file where `supervise` looks for it. Errors are printed, so that they do not hide the outcome."""
    folders = [folder for variable in (OUTCOME_FOLDER, scratch.FOLDER) if (folder := os.environ.get(variable))]
    failures = []
    for folder in folders:
        try:
            write_json(Path(folder) / name, content)
            return
        except OSError as error:
            failures.append(f"{Path(folder) / name} could not be written: {error}")
    if failures:
        print("\n".join(failures), file=sys.stderr, flush=True)


def _any_rank(flag: bool) -> bool:
    """True if `flag` is true on any rank of the default group; the rank's own value where there is no group."""
    import torch

    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        return flag
    on_gpu = dist.get_backend() == "nccl"
    value = torch.tensor([int(flag)], device=torch.device("cuda", torch.cuda.current_device()) if on_gpu else "cpu")
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())


def _leave_process_group() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
