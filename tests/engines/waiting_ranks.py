"""The ranks of test_waiting.py: two copies of a model with a long-tailed distribution of response lengths."""

import sys

from generation_ranks import engine_of, flat, prompts_of
from tiny_models import hf_model, tiny_model

from megatron_patches import parallel

import torch.distributed as dist  # isort: skip

from pipeline.rl.partial import UnderWay  # isort: skip
from pipeline.rl.prompt_sampler import PromptSampler  # isort: skip
from pipeline.rollout.interface import Sampling  # isort: skip
from pipeline.run.simulation import Work, simulate  # isort: skip
from pipeline.settings import Layout  # isort: skip

STEPS, PROMPTS, GROUP, ROUND, SLOTS = 12, 8, 2, 12, 64
HOW = Sampling(max_new_tokens=96, stop_token_ids=(7, 8, 9, 10), seed=3)
"""About one token in 25 ends a response: median 17, the longest of a batch about 90."""


class Counted:
    """The native engine with its decode steps counted."""

    def __init__(self, model):
        self.engine = engine_of(hf_model(model), model, Layout(), max_concurrent=SLOTS)
        self.steps: list[int] = []
        """Of this rank's copy, one entry a call."""
        step = self.engine.decoder.step
        self.engine.decoder.step = lambda *args: self.count() or step(*args)  # type: ignore[method-assign]

    def count(self) -> None:
        self.steps[-1] += 1

    def generate(self, *args, **named):
        self.steps.append(0)
        return self.engine.generate(*args, **named)

    def advance(self, *args, **named):
        self.steps.append(0)
        return self.engine.advance(*args, **named)

    def found(self) -> tuple[float, float]:
        """Decode steps of an RL step, those of the slower copy in each call, and the share of them in which a copy waits."""
        everywhere: list[list[int]] = [[]] * dist.get_world_size()
        dist.all_gather_object(everywhere, self.steps)
        self.steps = []
        slowest = sum(map(max, zip(*everywhere, strict=True)))
        return slowest / STEPS, 1 - sum(map(sum, everywhere)) / len(everywhere) / slowest


def main() -> None:
    parallel.initialize(Layout(), seed=0)
    model = tiny_model("qwen2")
    engine = Counted(model)
    prompts = prompts_of(PROMPTS * STEPS, 20, 101)

    sampler, rollouts = PromptSampler(prompts, PROMPTS, seed=0), []
    for version in range(STEPS):
        engine.engine.sync(None, version)
        rollouts += flat(engine.generate(sampler.next(), GROUP, HOW))
    steps, idle = engine.found()
    work = Work(
        lengths=[[len(r.token_ids) for r in rollouts]], responses=PROMPTS * GROUP, engines=2, slots=SLOTS, decode_base=1.0,
        decode_each=0.0, actor=1e-6, group=GROUP, round_tokens=ROUND,
    )  # fmt: skip
    (lengths,) = work.lengths
    assert max(lengths) > 4 * sorted(lengths)[len(lengths) // 2]  # a long tail
    foreseen = simulate(work, "step by step", steps=400)
    assert abs(foreseen.seconds / steps - 1) < 0.15, (foreseen, steps)
    assert abs(foreseen.engines_idle - idle) < 0.15, (foreseen, idle)

    under_way = UnderWay(engine, PromptSampler(prompts, PROMPTS, seed=0), GROUP, HOW, ROUND)
    for version in range(STEPS):
        engine.engine.sync(None, version)
        under_way.next(lambda rollout: None)
    partial_steps, partial_idle = engine.found()
    partial = simulate(work, "partial", steps=400)
    if dist.get_rank() == 0:
        print(f"step by step: {steps:.1f} decode steps, {idle:.2f} idle; {foreseen}")
        print(f"partial: {partial_steps:.1f} decode steps, {partial_idle:.2f} idle; {partial}")
    assert abs(partial.seconds / partial_steps - 1) < 0.15, (partial, partial_steps)
    assert abs(partial.engines_idle - partial_idle) < 0.15, (partial, partial_idle)
    assert partial_steps < steps / 1.5
    parallel.finish()


if __name__ == "__main__":
    sys.exit(main())
