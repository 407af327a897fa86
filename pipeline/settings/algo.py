"""The objective: which policy loss, and every number in it. Names are those of the formulas in docs/objective.md."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.common.names import unknown
from pipeline.settings.base import Section

ELASTIC = ("etr", "grpo_matched", "gspo", "cispo")
"""Losses whose bounds follow alpha and beta."""
STATIC = ("grpo", "dapo", "dr_grpo")
"""Losses with static bounds: they ignore alpha, beta, h, k, the scales, eps_low_max and elastic_side."""
NEIGHBOURS = ("adpo", "fac", "a2tgpo", "dc_grpo", "bapo", "abc_grpo", "sapo", "codapo")
"""Published relatives, each with a rule and settings of its own (`algo.<name>_*`); they ignore the same keys."""
LOSSES = (*ELASTIC, *STATIC, *NEIGHBOURS)
"""Losses of `pipeline.objectives.losses`, listed here so that a misspelling is found before torch is imported."""
SEQUENCE = ("gspo",)
"""Losses that mix the tokens of a sequence, so the fused policy head cannot form their gradient."""
IS_CAPS = {"tis": 2.0, "icepop": 5.0, "token_mis": 2.0, "sequence_mis": 2.0}
"""C of each form of the importance weight if `is_cap` is not set."""


def importance_cap(is_form: str, is_cap: float | None) -> float:
    """C of the importance weight."""
    return IS_CAPS[is_form] if is_cap is None else float(is_cap)


class Algo(Section):
    """An algorithm preset: `configs/algo/<name>.yaml`. `pipeline.objectives` takes this object as its `config`."""

    loss: str = "etr"
    """Policy loss, by name (docs/objective.md); ignored if `import_path` is set."""
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
    elastic_side: Literal["both", "positive", "negative"] = "both"
    """Responses whose bounds are elastic: all, those with a positive advantage, or those with a negative one."""
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
    is_form: Literal["tis", "icepop", "token_mis", "sequence_mis"] = "tis"
    """Importance weight of a token whose ratio exp(old_logp - rollout_logp) is too large: truncated (tis), or 0, so that the
    token is masked (docs/objective.md)."""
    is_cap: float | None = Field(None, gt=0)
    """C, the largest ratio that keeps its weight. none: 2, and 5 for icepop."""
    is_floor: float = Field(0.5, ge=0)
    """icepop: smallest ratio that is not masked."""
    is_weight: Literal["auto", "on", "off"] = "auto"
    """Importance weight. auto: on if `is_cap` or `is_form` is set, if another engine than the actor samples, or if
    `rl.async_depth` or `rollout.partial_tokens` is above 0."""
    cispo_eps_high: float = Field(5.0, gt=0)
    """CISPO: upper limit of the detached importance weight is 1 + this."""
    gspo_eps_low: float = Field(3e-4, gt=0, lt=1)
    """GSPO: lower clip bound of the sequence ratio, whose natural scale is far smaller than a token's."""
    gspo_eps_high: float = Field(4e-4, gt=0)
    """GSPO: upper clip bound of the sequence ratio."""
    adpo_bonus: float = Field(0.1, ge=0)
    """ADPO: what the upper bound gains for groups with a pass rate of 0.3 or less; nothing from 0.8 on."""
    fac_eps_max: float = Field(0.4, gt=0)
    """FAC: limit of the upper bound for groups whose rewards are high and steady; it starts at `eps_high`."""
    a2tgpo_beta: float = Field(0.3, ge=0, lt=1)
    """A2TGPO: largest share by which both bounds grow or shrink with the advantage."""
    dc_grpo_lambda: float = Field(0.15, ge=0)
    """DC-GRPO: largest change of a token's bounds."""
    dc_grpo_gamma: float = Field(1.8, ge=0)
    """DC-GRPO: power of the token's probability in that change."""
    bapo_target: float = Field(0.5, ge=0, le=1)
    """BAPO: share that positive advantages must contribute; the bounds move until it is reached."""
    bapo_eps_low_min: float = Field(0.1, gt=0, lt=1)
    """BAPO: the lower bound moves from `eps_low` down to this."""
    bapo_eps_high_max: float = Field(2.0, gt=0)
    """BAPO: the upper bound moves from `eps_high` up to this."""
    abc_grpo_eps_low: float = Field(0.2, gt=0, lt=1)
    """ABC-GRPO: lower bound of tokens with a positive advantage; `eps_low` is that of the others."""
    abc_grpo_eps_high: float = Field(0.2, gt=0)
    """ABC-GRPO: upper bound of tokens with a negative advantage; `eps_high` is that of the others."""
    sapo_tau_positive: float = Field(1.0, gt=0)
    """SAPO: temperature of the gate for positive advantages."""
    sapo_tau_negative: float = Field(1.05, gt=0)
    """SAPO: temperature of the gate for negative advantages; a larger one closes the gate sooner."""
    codapo_offset: float = Field(0.1, ge=0)
    """CoDaPO: least factor on a group's advantages."""
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
        cap = importance_cap(self.is_form, self.is_cap)
        if self.is_form == "icepop" and self.is_floor >= cap:
            raise ValueError(f"algo.is_floor={self.is_floor:g} is not below algo.is_cap={cap:g}")
        if self.reward_min >= self.reward_max:
            raise ValueError(f"algo.reward_min={self.reward_min} is not below algo.reward_max={self.reward_max}")
        return self
