#!/usr/bin/env bash
# The one door: makes the environment when it has to, then starts the stage. `bash run.sh` alone prints what can be run.
set -euo pipefail

root="$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export ETR_FOLDER="$PWD" # paths on the command line are relative to where it was typed

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
    for name in python3.11 python3.12 python3 python; do
        if command -v "$name" >/dev/null 2>&1 && fits "$name"; then
            echo "$name"
            return
        fi
    done
    echo "Python 3.11 or 3.12 is needed and neither was found on the PATH." >&2
    exit 2
}

is_ready() { # does the stamp of a layer of .venv hold the hash of its requirements?
    local stamp="$root/.venv/.stamp-$1" hash
    shift
    [[ -s "$stamp" && -x "$root/.venv/bin/python" ]] || return 1
    hash="$(cd "$root/requirements" && cat "$@" | { sha256sum 2>/dev/null || shasum -a 256; })"
    [[ "$(<"$stamp")" == "${hash%% *}" ]]
}

case "${1-}" in
"" | help | -h | --help)
    python="$(find_python)"
    exec "$python" -m pipeline.run.door
    ;;
esac

extras_ready() {
    [[ " ${ETR_EXTRAS-} " != *cpu-vllm* ]] || is_ready cpu-vllm cpu-vllm.txt || return 1
    # A machine without the driver's tool has no GPU; where it has, asking it on every start would cost a second.
    ! command -v nvidia-smi >/dev/null 2>&1 || is_ready gpu gpu.txt || is_ready gpu-failed gpu.txt ||
        ! nvidia-smi -L 2>/dev/null | grep -q "GPU "
}

if ! { is_ready base torch.txt cpu.txt && extras_ready; }; then
    python="$(find_python)"
    "$python" -m pipeline.run.door "$@" # a misspelled name should not cost an installation
    "$python" -m pipeline.run.environment
fi
exec "$root/.venv/bin/python" -m pipeline.run.cli "$@"
