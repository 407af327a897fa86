"""math-verify on the rows of standard input, by its defaults. Run by its own interpreter: imports nothing of ours.

Reads JSON lines `[response, gold]`; prints `{version, rows_s, median_ms, p95_ms, verdicts}`. One pass warms up.
"""

import importlib.metadata
import json
import logging
import statistics
import sys
import time


def main() -> None:
    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)
    pairs = [json.loads(line) for line in sys.stdin]
    for response, gold in pairs[:200]:
        verify(parse(f"${gold}$"), parse(response))
    verdicts, taken = [], []
    started = time.process_time()
    for response, gold in pairs:
        before = time.perf_counter()
        try:
            verdict = bool(verify(parse(f"${gold}$"), parse(response)))
        except Exception:  # its own tests count what it raises on as wrong
            verdict = False
        taken.append((time.perf_counter() - before) * 1e3)
        verdicts.append(verdict)
    seconds = time.process_time() - started
    taken.sort()
    result = {
        "version": importlib.metadata.version("math-verify"),
        "rows_s": len(pairs) / seconds,
        "median_ms": statistics.median(taken),
        "p95_ms": taken[int(0.95 * len(taken))],
        "verdicts": verdicts,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
