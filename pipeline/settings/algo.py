"""The objective: which policy loss, and every number in it. Names are those of the formulas in docs/objective.md."""

import difflib
from typing import Literal

from pydantic import Field, model_validator

from pipeline.settings.base import Section

LOSSES = ("etr", "grpo", "dapo", "dr_grpo", "gspo", "cispo", "grpo_matched")
"""Losses of `pipeline.objectives.losses`, named here so that a misspelling is found before torch is imported."""


class Algo(Section):
    """An algorithm preset: `configs/algo/<name>.yaml`. `pipeline.objectives` takes this object as its `config`."""

    loss: str = "etr"
    """Policy loss: etr, grpo, dapo, dr_grpo, gspo, cispo or grpo_matched; not looked at where `import_path` is set."""
    import_path: str | None = None
    """`path/to/file.py:function` or `package.module:function` of a policy loss of your own."""
    normalize: Literal["std", "none", "loo"] = "std"
    """Advantage: divided by the group's std (GRPO), only centred (Dr.GRPO), or leave-one-out (RLOO)."""
    std_ddof: Literal[0, 1] = 0
    """Std of `normalize=std`: 0 divides by G, the group's size; 1 by G - 1 (Bessel's correction, as in verl and TRL)."""
    eps_low: float = Field(0.2, gt=0, lt=1)
    eps_high: float = Field(0.28, gt=0)
    alpha: float = Field(0.25, ge=0)
    """Micro elasticity: how much the bounds follow |advantage|. 0 turns it off."""
    beta: float = Field(0.25, ge=0, le=1)
    """Macro elasticity: how much the bounds follow the group's reward variance. 0 turns it off."""
    h: Literal["linear", "sqrt", "tanh"] = "linear"
    """Micro form: x, sqrt(x) or tanh(x) of |A|."""
    k: Literal["variance", "std", "none"] = "variance"
    """Macro form: v, sqrt(v), or no macro term."""
    scale_min: float = Field(0.25, gt=0)
    scale_max: float = Field(4.0, gt=0)
    eps_low_max: float = Field(0.9, gt=0, lt=1)
    """Upper limit of the elastic eps_low, so that 1 - eps stays positive."""
    reward_min: float = 0.0
    reward_max: float = 1.0
    dual_clip: float | None = Field(None, gt=1)
    """c of the dual clip for negative advantages (3 is usual); none turns it off."""
    aggregate: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"] = "token-mean"
    kl_coef: float = Field(0.0, ge=0)
    kl: Literal["k1", "k2", "k3"] = "k3"
    kl_clamp: float | None = Field(None, gt=0)
    """A token's KL estimate is clamped to +- this, with gradient 0 beyond (verl: 10); none turns it off."""
    entropy_coef: float = 0.0
    is_cap: float | None = Field(None, gt=0)
    """C of the truncated importance weight min(exp(old_logp - rollout_logp), C); none turns it off, unless
    `is_weight` is auto and the rollout engine is not the actor."""
    is_weight: Literal["auto", "on", "off"] = "auto"
    """auto: on (with C = is_cap or 2) when another engine than the actor samples or `rl.async_depth` > 0."""
    cispo_eps_high: float = Field(5.0, gt=0)
    """CISPO: upper limit of the detached importance weight is 1 + this."""
    gspo_eps_low: float = Field(3e-4, gt=0, lt=1)
    gspo_eps_high: float = Field(4e-4, gt=0)
    """GSPO clips a sequence-level ratio, whose natural scale is far smaller than a token's."""
    dynamic_sampling: bool = False
    """DAPO: sample further prompts until the batch holds only groups of mixed reward."""

    @model_validator(mode="after")
    def _check(self) -> "Algo":
        if self.import_path is None and self.loss not in LOSSES:
            near = difflib.get_close_matches(self.loss, LOSSES, 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(f"algo.loss={self.loss} is no policy loss.{hint} Allowed: {', '.join(LOSSES)}")
        if self.import_path is not None and not all(self.import_path.rpartition(":")[::2]):
            raise ValueError(
                f"algo.import_path={self.import_path} must read path/to/file.py:function or package.module:function"
            )
        if self.scale_min > self.scale_max:
            raise ValueError(f"algo.scale_min={self.scale_min} is above algo.scale_max={self.scale_max}")
        if self.reward_min >= self.reward_max:
            raise ValueError(f"algo.reward_min={self.reward_min} is not below algo.reward_max={self.reward_max}")
        return self
