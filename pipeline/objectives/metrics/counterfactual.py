"""Counterfactual clip: what every bound of the family would cut on the tokens of this run, and what that would cost.

The tokens and their ratios are those of the run, which one algorithm trains. A bound is asked only what it would do with
them; where it would have led the policy is not known. This compares bounds without a run for each.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pipeline.objectives import losses
from pipeline.objectives.bounds import clip_bounds
from pipeline.objectives.metrics.sums import Field, MetricSums, SumsBuilder
from pipeline.objectives.metrics.token import label_of, members_of
from pipeline.objectives.prepare import with_token_bounds
from pipeline.objectives.tokens import Tokens
from pipeline.settings import Algo

FAMILY: dict[str, dict[str, Any]] = {
    "static": {"loss": "dapo"},
    "etr": {"loss": "etr"},
    "etr_micro": {"loss": "etr", "beta": 0.0},
    "grpo_matched": {"loss": "grpo_matched"},
    "adpo": {"loss": "adpo"},
    "fac": {"loss": "fac"},
    "dc_grpo": {"loss": "dc_grpo"},
    "abc_grpo": {"loss": "abc_grpo"},
}
"""Name in the metrics -> what makes it, on top of the run's settings. As many as a chart has colours: a2tgpo is left out,
because its x is our choice here. bapo needs a search over the step, and sapo, cispo and codapo cut no gradient."""


def family_config(name: str, config: Any) -> Algo:
    """The settings of one member: the run's own, with ETR's default alpha and beta where the run has no elasticity."""
    values = config.model_dump()
    if not losses.of(config).elastic or config.alpha == config.beta == 0:
        default = Algo()
        values |= {"alpha": default.alpha, "beta": default.beta}
    return Algo(**values | {"import_path": None} | FAMILY[name])


def family_bounds(advantages: Tensor, variance: Tensor, lengths: Tensor, config: Any, pass_rate: Tensor) -> Tensor:
    """Computes the bounds of responses by every member of `FAMILY`: fp32 [members, 2, prompts * group], low and high.

    Args: as `clip_bounds`.
    """
    bounds = [clip_bounds(advantages, variance, lengths, family_config(name, config), pass_rate) for name in FAMILY]
    return torch.stack([torch.stack([eps.reshape(-1) for eps in pair]) for pair in bounds]).float()


@torch.no_grad()
def counterfactual_metrics(x: Tokens, config: Any, bounds: Tensor) -> MetricSums:
    """Computes sums that add up over micro-batches and ranks, to be added to those of `token_metrics`.

    The mass of a token is the size of its loss's derivative by its log-prob if nothing clips it: weight * rho * |A|.

    Args:
        x: the tokens, [T] or [B, T].
        config: the config of the run.
        bounds: [members, 2, *tokens], `family_bounds` at each token.
    """
    out = SumsBuilder()
    good, bad = x.keep & (x.advantages > 0), x.keep & (x.advantages < 0)
    mass = x.weight * x.ratio * x.advantages.abs() * (1.0 if x.importance is None else x.importance)
    mass = torch.where(x.keep, mass, 0.0)
    out.rows({"pg_mass": mass}, per="")
    in_bin = None if x.pass_rate is None else members_of(x.pass_rate, x.keep)  # [bins, T]
    if in_bin is not None:
        for i, total in enumerate(in_bin @ mass.reshape(-1)):
            out.add(Field(f"pg_mass_{label_of(i)}"), total)
    for name, (eps_low, eps_high) in zip(FAMILY, bounds.double(), strict=True):
        member = family_config(name, config)
        loss = losses.of(member)
        tokens = with_token_bounds(replace(x, eps_low=eps_low, eps_high=eps_high), loss, member)
        low, high = loss.cuts(tokens.ratio, tokens.advantages, tokens.eps_low, tokens.eps_high)
        cut = low | high
        prefix = f"counterfactual/{name}"
        out.rows({f"{prefix}_cut_positive": cut & good, f"{prefix}_cut_negative": cut & bad}, per="tokens")
        removed = torch.where(cut, mass, 0.0)
        out.rows({f"{prefix}_mass_positive": removed * good, f"{prefix}_mass_negative": removed * bad}, per="pg_mass")
        if in_bin is not None:
            for i, total in enumerate(in_bin @ removed.reshape(-1)):
                label = label_of(i)
                out.add(Field(f"{prefix}_mass_pass_rate_{label}", per=f"pg_mass_{label}"), total)
    return out.pack()
