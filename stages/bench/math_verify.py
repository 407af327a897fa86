"""math-verify's verdicts on our responses, from its own interpreter: it cannot be installed beside latex2sympy2."""

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.common.errors import UsageError

SCRIPT = Path(__file__).parent / "peers" / "run_math_verify.py"
PATIENCE_S = 3600


def math_verify(key: str, python: str, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What math-verify says of (response, gold) pairs: `verdicts` in order, its `version`, `rows_s`, `median_ms`, `p95_ms`.

    Raises UsageError, which names the setting `key` that gave the interpreter, where math-verify does not run there.
    """
    lines = "\n".join(json.dumps(pair) for pair in pairs)
    # -I: the folder of the script, whose `types` would hide the standard one, stays out of the import path
    command = [python, "-I", str(SCRIPT)]
    try:
        done = subprocess.run(command, input=lines, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UsageError(f"{key}={python}: {error}. Name the Python of an environment with math-verify.") from error
    if done.returncode:
        said = done.stderr.strip()[-2000:]
        raise UsageError(f"{key}={python}: math-verify failed there; is it installed in that environment?\n{said}")
    return json.loads(done.stdout.splitlines()[-1])
