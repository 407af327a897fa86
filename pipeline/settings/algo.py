"""The objective: which policy loss, and every number in it. Names are those of the formulas in docs/objective.md."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.common.names import unknown
from pipeline.settings.base import Section

LOSSES = ("etr", "grpo", "dapo", "dr_grpo", "gspo", "cispo", "grpo_matched")
"""Losses of `pipeline.objectives.losses`, listed here so that a misspelling is found before torch is imported."""
STATIC = ("grpo", "dapo", "dr_grpo")
"""Losses with static bounds: they ignore alpha, beta, h, k, the scales and eps_low_max."""
SEQUENCE = ("gspo",)
"""Losses that mix the tokens of a sequence, so the fused policy head cannot form their gradient."""


class Algo(Section):
    """An algorithm preset: `configs/algo/<name>.yaml`. `pipeline.objectives` takes this object as its `config`."""

    loss: str = "etr"
    """Policy loss: etr, grpo, dapo, dr_grpo, gspo, cispo or grpo_matched; ignored if `import_path` is set."""
    import_path: str | None = None
    """Your own policy loss, as `path/to/file.py:function` or `package.module:function`."""
    normalize: Literal["std", "none", "loo"] = "std"
    """Advantage: divided by the group's std (GRPO), only centred (Dr.GRPO), or leave-one-out (RLOO)."""
    std_ddof: Literal[0, 1] = 0
    """Std of `normalize=std`: 0 divides by G, the group's size; 1 by G - 1 (Bessel's correction, as in verl and TRL)."""
    eps_low: float = Field(0.2, gt=0, lt=1)
    """Lower clip bound of the token ratio: 1 - eps_low."""
    eps_high: float = Field(0.28, gt=0)
    """Upper clip bound of the token ratio: 1 + eps_high."""
    alpha: float = Field(0.25, ge=0)
    """Micro elasticity: how much the bounds follow |advantage|. 0 turns it off."""
    beta: float = Field(0.25, ge=0, le=1)
    """Macro elasticity: how much the bounds follow the group's reward variance. 0 turns it off."""
    h: Literal["linear", "sqrt", "tanh"] = "linear"
    """Micro form: x, sqrt(x) or tanh(x) of |A|."""
    k: Literal["variance", "std", "none"] = "variance"
    """Macro form: v, sqrt(v), or no macro term."""
    scale_min: float = Field(0.25, gt=0)
    """Smallest factor by which elasticity may scale the bounds."""
    scale_max: float = Field(4.0, gt=0)
    """Largest factor by which elasticity may scale the bounds."""
    eps_low_max: float = Field(0.9, gt=0, lt=1)
    """Upper limit of the elastic eps_low, so that 1 - eps stays positive."""
    reward_min: float = 0.0
    """Smallest reward of a response; pass rates and the greatest variance are relative to this range."""
    reward_max: float = 1.0
    """Largest reward of a response."""
    dual_clip: float | None = Field(None, gt=1)
    """c of the dual clip for negative advantages (3 is usual); none turns it off."""
    aggregate: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum-norm"] = "token-mean"
    """How token losses become one number: mean over tokens, mean of the sequences' means, or sums divided by a constant."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL term to the base model; 0 loads no reference model."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """Estimator of the KL term (docs/objective.md)."""
    kl_clamp: float | None = Field(None, gt=0)
    """A token's KL estimate is clamped to +- this, with gradient 0 beyond (verl: 10); none turns it off."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus; negative values are a penalty."""
    is_cap: float | None = Field(None, gt=0)
    """C of the truncated importance weight min(exp(old_logp - rollout_logp), C). none: 2 where `is_weight` is on, or is auto
    and turns it on."""
    is_weight: Literal["auto", "on", "off"] = "auto"
    """Importance weight. auto: on (with C = is_cap or 2) if `is_cap` is set, if another engine than the actor samples, or
    if `rl.async_depth` > 0."""
    cispo_eps_high: float = Field(5.0, gt=0)
    """CISPO: upper limit of the detached importance weight is 1 + this."""
    gspo_eps_low: float = Field(3e-4, gt=0, lt=1)
    """GSPO: lower clip bound of the sequence ratio, whose natural scale is far smaller than a token's."""
    gspo_eps_high: float = Field(4e-4, gt=0)
    """GSPO: upper clip bound of the sequence ratio."""
    dynamic_sampling: bool = False
    """DAPO: sample further prompts until the batch holds only groups of mixed reward."""

    @model_validator(mode="after")
    def _check(self) -> "Algo":
        if self.import_path is None and self.loss not in LOSSES:
            raise ValueError(unknown("algo.loss", self.loss, LOSSES))
        if self.import_path is not None and not all(self.import_path.rpartition(":")[::2]):
            raise ValueError(
                f"algo.import_path={self.import_path} must read path/to/file.py:function or package.module:function"
            )
        if self.scale_min > self.scale_max:
            raise ValueError(f"algo.scale_min={self.scale_min} is above algo.scale_max={self.scale_max}")
        if self.reward_min >= self.reward_max:
            raise ValueError(f"algo.reward_min={self.reward_min} is not below algo.reward_max={self.reward_max}")
        return self
