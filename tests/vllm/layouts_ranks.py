"""The two ranks of test_layouts.py: weights from pipeline stages and expert ranks into vLLM.

argv: the engine's TP, then cases `family,pp,ep,tied`. Prints the gaps.
"""

import sys

from vllm_ranks import check

from megatron_patches import parallel
from pipeline.settings import Layout

UPDATES = 2


def main() -> None:
    engine_tp = int(sys.argv[1])
    for case in sys.argv[2:]:
        family, pp, ep, tied = case.split(",")
        layout = Layout(pp=int(pp), ep=int(ep), rollout_tp=engine_tp)
        check(layout, tied == "tied", 0.01 if tied == "untied" else 128.0, family, UPDATES)
    parallel.finish()


if __name__ == "__main__":
    main()
