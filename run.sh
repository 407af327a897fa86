#!/usr/bin/env bash
# The one door: makes the environment if needed, then starts the stage. `bash run.sh` alone prints what can be run.
# ETR_VENV=<folder> names another environment than .venv, ETR_EXTRAS=cpu-vllm (or gguf) adds to it, and ETR_PYTHON=<interpreter> uses
# one that has everything (a container's) instead.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export ETR_FOLDER="$PWD" # paths on the command line are relative to where it was typed
venv="${ETR_VENV:-.venv}"
[[ "$venv" == /* ]] || venv="$root/$venv"

case "$(uname -s)" in
Linux | Darwin) ;;
*)
    echo "Linux is needed (macOS does for trying things on CPU); this is $(uname -s). On Windows use WSL." >&2
    exit 2
    ;;
esac

fits() { # is it a Python that works, of a version that the pins fit?
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' >/dev/null 2>&1
}

find_python() {
    local name
    for name in "${ETR_PYTHON:-python3.11}" python3.12 python3 python; do
        if command -v "$name" >/dev/null 2>&1 && fits "$name"; then
            echo "$name"
            return
        fi
        if [[ -n "${ETR_PYTHON-}" ]]; then
            echo "ETR_PYTHON=$ETR_PYTHON is not a Python 3.11 or 3.12 that runs." >&2
            exit 2
        fi
    done
    echo "Python 3.11 or 3.12 is needed, and the PATH has neither." >&2
    exit 2
}

is_ready() { # does the stamp of a layer of the environment hold the hash of its requirements?
    local stamp="$venv/.stamp-$1" hash
    shift
    [[ -s "$stamp" && -x "$venv/bin/python" ]] || return 1
    hash="$(cd "$root/requirements" && cat "$@" | { sha256sum 2>/dev/null || shasum -a 256; })"
    [[ "$(<"$stamp")" == "${hash%% *}" ]]
}

case "${1-}" in
"" | help | -h | --help)
    python="$(find_python)"
    exec "$python" -m pipeline.run.door
    ;;
esac

if [[ -n "${ETR_PYTHON-}" ]]; then
    python="$(find_python)"
    "$python" -m pipeline.run.door "$@"
    "$python" -m pipeline.run.environment check
    exec "$python" -m pipeline.run.cli "$@"
fi

settled() { # was a GPU extra installed, or tried without success?
    local layer="$1"
    shift
    is_ready "$layer" "$@" || is_ready "$layer-failed" "$@"
}

extras_ready() {
    local extra
    for extra in cpu-vllm gguf; do
        [[ "${ETR_EXTRAS-}" != *"$extra"* ]] || is_ready "$extra" "$extra.txt" || return 1
    done
    # A machine without the driver's tool has no GPU; where it has, asking it on every start would cost a second.
    ! command -v nvidia-smi >/dev/null 2>&1 ||
        { settled gpu-vllm gpu-vllm.txt && settled gpu-te gpu-te-build.txt gpu-te.txt; } ||
        ! nvidia-smi -L 2>/dev/null | grep -q "GPU "
}

if ! { is_ready base torch.txt cpu.txt && extras_ready; }; then
    python="$(find_python)"
    "$python" -m pipeline.run.door "$@" # a misspelled name should not cost an installation
    "$python" -m pipeline.run.environment
fi
exec "$venv/bin/python" -m pipeline.run.cli "$@"
