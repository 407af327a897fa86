"""Which metrics each chart shows. A metric that no panel names, such as a plug-in's, gets a small chart at the end of the
page; `WITHOUT_PANEL` lists those that deliberately have none. tests/report/test_panels.py checks that every metric that
the code writes is in one of the two, and that nothing here is a name that nobody writes."""

from dataclasses import dataclass

from pipeline.report.axes import Form


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart. It is left out where the run has none of its metrics."""

    title: str
    note: str = ""
    """One line below the title: what the numbers are."""
    lines: tuple[tuple[str, str], ...] = ()
    """(metric or pattern with one `*`, label); a pattern's label is what the star matched. `a+b` is a sum."""
    form: Form = "number"
    log: bool = False
    """Logarithmic, where the values are positive and span more than a factor of 8."""
    zero: bool = False
    """The axis starts at 0."""
    smooth: bool = False
    band: tuple[str, str] | None = None
    """Metrics of the lower and upper edge of a shaded area."""
    histogram: str = ""
    """A metric of the form {"edges", "counts"}: the panel is its heatmap, with `lines[0]` as a curve on top."""
    stacked: bool = False


@dataclass(frozen=True)
class Group:
    """A section of the page."""

    title: str
    note: str
    panels: tuple[Panel, ...]


PASS_RATES = ("0.0-0.2", "0.2-0.4", "0.4-0.6", "0.6-0.8", "0.8-1.0")

GROUPS = (
    Group(
        "Learning",
        "",
        (
            Panel(
                title="Reward",
                note="means over the responses of the step",
                lines=(
                    ("reward/mean", "reward"),
                    ("reward/pass@1", "right answers"),
                    ("reward/pass@group", "groups with a right answer"),
                ),
                smooth=True,
            ),
            Panel(
                title="Held-out accuracy",
                note="measured every rl.eval_every steps",
                lines=(("eval/*", ""),),
                form="share",
            ),
            Panel(
                title="Groups without a learning signal",
                note="all rewards equal, so every advantage is zero",
                lines=(
                    ("reward/zero_variance_groups", "all such groups"),
                    ("reward/all_right_groups", "all right"),
                    ("reward/all_wrong_groups", "all wrong"),
                ),
                form="share",
                zero=True,
            ),
            Panel(
                title="Policy entropy",
                note="nats per token",
                lines=(("policy/entropy", "entropy"),),
                zero=True,
                smooth=True,
            ),
        ),
    ),
    Group(
        "Elastic trust region",
        "The clip range differs by response: it is wider where the advantage is large and the group's rewards differ.",
        (
            Panel(
                title="Clipped tokens",
                note="share of the response tokens",
                lines=(
                    ("clip/low", "at the low bound"),
                    ("clip/high", "at the high bound"),
                    ("clip/dual", "by dual clip"),
                ),
                form="share",
                zero=True,
                smooth=True,
            ),
            Panel(
                title="Compared with static bounds",
                note="share of the same tokens that fixed bounds would have clipped",
                lines=(
                    ("clip/low+clip/high", "as trained"),
                    ("clip/static_low+clip/static_high", "static bounds"),
                    ("clip/differs_from_static", "the two disagree"),
                ),
                form="share",
                zero=True,
                smooth=True,
            ),
            Panel(
                title="Clipped at the low bound, by pass rate of the group",
                lines=(("clip/low_pass_rate_*", ""),),
                form="share",
                zero=True,
                smooth=True,
            ),
            Panel(
                title="Clipped at the high bound, by pass rate of the group",
                lines=(("clip/high_pass_rate_*", ""),),
                form="share",
                zero=True,
                smooth=True,
            ),
            Panel(
                title="Distribution of the elastic scale",
                note="factor on both bounds; a darker cell holds more responses",
                histogram="hist/scale",
                lines=(("bounds/scale_mean", "mean"),),
            ),
            Panel(
                title="Elastic scale",
                note="mean, and the range from smallest to largest, over responses",
                lines=(("bounds/scale_mean", "mean"),),
                band=("bounds/scale_min", "bounds/scale_max"),
                zero=True,
            ),
            Panel(
                title="Low bound",
                note="how far a token's probability ratio may fall below 1",
                lines=(
                    ("bounds/eps_low_mean", "mean over responses"),
                    ("bounds/eps_low_token_mean", "mean over tokens"),
                    ("bounds/eps_low_live_mean", "mean over live tokens"),
                ),
                band=("bounds/eps_low_min", "bounds/eps_low_max"),
                zero=True,
            ),
            Panel(
                title="High bound",
                note="how far a token's probability ratio may rise above 1",
                lines=(
                    ("bounds/eps_high_mean", "mean over responses"),
                    ("bounds/eps_high_token_mean", "mean over tokens"),
                    ("bounds/eps_high_live_mean", "mean over live tokens"),
                ),
                band=("bounds/eps_high_min", "bounds/eps_high_max"),
                zero=True,
            ),
            Panel(
                title="Responses at the limits of the scale",
                lines=(("bounds/scale_at_min", "at the minimum"), ("bounds/scale_at_max", "at the maximum")),
                form="share",
                zero=True,
            ),
        ),
    ),
    Group(
        "Counterfactual clip",
        "What each algorithm's bounds would do with the tokens of this run; it does not say where they would have led.",
        (
            *(
                Panel(
                    title=f"{what}, {sign} advantage",
                    note=note,
                    lines=((f"counterfactual/*_{kind}_{sign}", ""),),
                    form="share",
                    zero=True,
                    smooth=True,
                )
                for kind, what, note in (
                    ("cut", "Cut tokens", "share of the response tokens"),
                    ("mass", "Gradient mass removed", "share of the sum over tokens of weight x ratio x |advantage|"),
                )
                for sign in ("positive", "negative")
            ),
            *(
                Panel(
                    title=f"Gradient mass removed, pass rate {rate}",
                    note="share of the mass of groups with that pass rate",
                    lines=((f"counterfactual/*_mass_pass_rate_{rate}", ""),),
                    form="share",
                    zero=True,
                    smooth=True,
                )
                for rate in PASS_RATES
            ),
        ),
    ),
    Group(
        "Policy",
        "",
        (
            Panel(
                title="KL to the policy before the step",
                note="nats per token; k3 is the low-variance estimate",
                lines=(
                    ("policy/kl_old_k3", "k3, mean"),
                    ("policy/kl_old_k3_median", "k3, median"),
                ),
                log=True,
            ),
            Panel(
                title="KL to the policy before the step, k1",
                note="nats per token; unbiased, noisy, may be negative",
                lines=(("policy/kl_old_k1", "k1"),),
            ),
            Panel(
                title="KL to the reference",
                note="nats per token",
                lines=(("policy/kl_ref_k3", "k3"), ("policy/kl_ref_k1", "k1")),
            ),
            Panel(
                title="Probability ratio",
                note="mean and median over tokens",
                lines=(("policy/ratio_mean", "mean"), ("policy/ratio_median", "median")),
            ),
            Panel(
                title="Extreme ratios",
                note="of single tokens",
                lines=(("policy/ratio_max", "largest"), ("policy/ratio_min", "smallest")),
                log=True,
            ),
            Panel(
                title="Gap between engine and trainer",
                note="absolute difference of their log-probs of the sampled tokens",
                lines=(("gap/max", "largest"), ("gap/mean", "mean")),
                log=True,
            ),
            Panel(
                title="Gap after the weight sync",
                note="the same for a few sequences that both score with the new weights",
                lines=(("gap/sync_max", "largest"), ("gap/sync_mean", "mean")),
                log=True,
            ),
            Panel(
                title="Gap as a factor",
                note="mean of exp(gap); 1 is no gap",
                lines=(
                    ("gap/checked_mean_exp", "checked against rollout.gap_limit"),
                    ("gap/mean_exp", "of the trained tokens"),
                    ("gap/sync_mean_exp", "after the weight sync"),
                ),
            ),
            Panel(
                title="Importance weight",
                note="mean over tokens; corrects for sampling from another policy than the trainer's",
                lines=(("gap/is_weight", "weight"), ("gap/ratio_mean", "ratio before truncation and masks")),
            ),
            Panel(
                title="Extreme ratios of trainer to engine",
                note="of single tokens, before truncation and masks",
                lines=(("gap/ratio_max", "largest"), ("gap/ratio_min", "smallest")),
                log=True,
            ),
            Panel(
                title="Masked tokens",
                note="share of the trained tokens whose importance weight is 0 (algo.is_form)",
                lines=(("gap/masked", "masked"),),
                form="share",
                zero=True,
            ),
            Panel(
                title="Gap by age of the sampling weights",
                note="mean gap of the tokens whose weights were that many steps old",
                lines=(("gap/lag_*_mean", ""),),
                log=True,
            ),
            Panel(
                title="Gradient norm",
                note="before clipping",
                lines=(("optim/grad_norm", "norm"),),
                zero=True,
                smooth=True,
            ),
            Panel(title="Learning rate", lines=(("optim/lr", "rate"),), zero=True),
            Panel(title="Loss", lines=(("policy/loss", "loss"),), smooth=True),
            Panel(
                title="Live tokens",
                note="share of tokens whose advantage is not zero",
                lines=(("policy/live_tokens", "live"),),
                form="share",
                zero=True,
            ),
            Panel(
                title="Skipped updates",
                note="share of the step's optimizer steps; skipped where a gradient is not finite",
                lines=(("optim/skipped", "skipped"),),
                form="share",
                zero=True,
            ),
            Panel(
                title="Tokens with NaN, infinite or extreme log-probs",
                note="number in the step",
                lines=(
                    ("policy/nonfinite_tokens", "left out of the loss"),
                    ("policy/clamped_tokens", "log-ratio clamped"),
                    ("gap/nonfinite_tokens", "left out of the gap"),
                ),
                zero=True,
            ),
        ),
    ),
    Group(
        "Responses",
        "",
        (
            Panel(
                title="Response length",
                note="tokens: mean, and the range from shortest to longest",
                lines=(("length/mean", "mean"),),
                band=("length/min", "length/max"),
                zero=True,
            ),
            Panel(
                title="Truncated and empty responses",
                lines=(("length/truncated", "truncated"), ("length/empty", "empty")),
                form="share",
                zero=True,
            ),
            Panel(
                title="Sampled groups",
                note="groups to learn from, and the rounds of sampling that gave them",
                lines=(("rollout/groups", "groups"), ("rollout/rounds", "rounds")),
                zero=True,
            ),
            Panel(
                title="Age of the sampling policy",
                note="steps between the weights that sampled and the weights that are trained",
                lines=(("rollout/version_lag_mean", "mean"), ("rollout/version_lag_max", "largest")),
                zero=True,
            ),
            Panel(
                title="Carried responses",
                note="unfinished when a step was trained; they continue from the new weights (rollout.partial_tokens)",
                lines=(("rollout/carried", "responses"),),
                zero=True,
            ),
            Panel(
                title="Carried tokens",
                note="that the carried responses have so far",
                lines=(("rollout/carried_tokens", "tokens"),),
                zero=True,
            ),
            Panel(
                title="Rounds of partial rollouts",
                note="rounds of rollout.partial_tokens tokens until enough groups were whole",
                lines=(("rollout/partial_rounds", "rounds"),),
                zero=True,
            ),
            Panel(
                title="Tokens by age of the sampling weights",
                note="share of the tokens whose weights were that many steps old",
                lines=(("rollout/lag_*_tokens", ""),),
                form="share",
                zero=True,
            ),
        ),
    ),
    Group(
        "Verifier",
        "Counts of single steps, over all ranks.",
        (
            Panel(
                title="Graded answers",
                note="all answers, and those whose grade was already known",
                lines=(("verify/graded", "graded"), ("verify/cache_hits", "from the cache")),
                zero=True,
            ),
            Panel(
                title="Layer that decided",
                note="newly graded answers, by the layer that reached the verdict",
                lines=(("verify/layer_*", ""),),
                zero=True,
            ),
            Panel(
                title="Answers that could not be read",
                note="by the layer that could not read the answer or the gold answer",
                lines=(("verify/unread_*", ""),),
                zero=True,
            ),
            Panel(
                title="How paid answers were given",
                note="share of the right answers; the rest are in a box. A rising curve may be an easier way to be paid",
                lines=(
                    ("verify/paid_unboxed", "without a box"),
                    ("verify/paid_prose", "read from prose"),
                    ("verify/paid_other_form", "in another form than the gold"),
                ),
                form="share",
                zero=True,
                smooth=True,
            ),
            Panel(title="Paid answers", note="right answers of the step", lines=(("verify/paid", "paid"),), zero=True),
            Panel(
                title="Judge",
                note="answers that the rules found different: asked, turned from wrong to right, without a usable reply",
                lines=(
                    ("verify/judge_asked", "asked"),
                    ("verify/judge_overturned", "overturned"),
                    ("verify/judge_failed", "no usable reply"),
                ),
                zero=True,
            ),
            Panel(
                title="Answers that the judge overturned",
                note="share of those that it was asked about",
                lines=(("verify/judge_overturn_rate", "overturned"),),
                form="share",
                zero=True,
                smooth=True,
            ),
            Panel(
                title="Failures",
                note="time-outs, workers that died, and workers that were replaced",
                lines=(
                    ("verify/timeouts", "time-outs"),
                    ("verify/deaths", "workers died"),
                    ("verify/respawns", "workers replaced"),
                ),
                zero=True,
            ),
            Panel(
                title="Working time",
                note="seconds, added up over all workers",
                lines=(("verify/seconds", "all workers"),),
                form="seconds",
                zero=True,
            ),
        ),
    ),
    Group(
        "Speed",
        "",
        (
            Panel(title="Seconds per step, by phase", lines=(("seconds/*", ""),), form="seconds", stacked=True),
            Panel(
                title="Tokens per second",
                note="response tokens, by the time of the whole step and by that of the sampling alone",
                lines=(
                    ("speed/tokens_per_s", "whole step"),
                    ("speed/tokens_per_s_device", "whole step, for each device"),
                    ("speed/rollout_tokens_per_s", "sampling"),
                ),
                zero=True,
            ),
            Panel(
                title="MFU of the updates",
                note="operations that the model asks for, as a share of the devices' bf16 peak; on GPUs that are known",
                lines=(("speed/mfu", "MFU"),),
                form="share",
                zero=True,
            ),
            Panel(
                title="Response tokens",
                note="number in the step",
                lines=(("speed/generated_tokens", "tokens"),),
                zero=True,
            ),
            Panel(
                title="Weights sent to the engine",
                note="GiB per sync",
                lines=(("sync/gib", "sent"),),
                zero=True,
            ),
            Panel(
                title="vLLM servers in use",
                note="that have the weights of the step (rollout.mode=serve)",
                lines=(("sync/servers", "servers"),),
                zero=True,
            ),
        ),
    ),
)

WITHOUT_PANEL = {
    "speed/sampling_s": "a plan reads it (plan.lengths); `Seconds per step` shows how much of it the actor waited",
    "speed/update_operations": "the work behind speed/mfu, which the panel `MFU of the updates` shows",
    "hist/eps_low": "the scale's histogram times a constant; the panel `Low bound` shows mean and range",
    "hist/eps_high": "the scale's histogram times a constant; the panel `High bound` shows mean and range",
}
"""Metrics that are in metrics.jsonl and deliberately not on the page -> why."""
