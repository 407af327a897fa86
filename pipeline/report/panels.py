"""Which metrics stand in which chart. Names are those of `pipeline.objectives.metrics`, the tracker and stages/rl.py; a
metric that no panel knows gets a small chart of its own at the end."""

from dataclasses import dataclass

from pipeline.report.axes import Form


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One chart. It is left out where the run has none of its metrics."""

    title: str
    note: str = ""
    """One line below the title: what one sees."""
    lines: tuple[tuple[str, str], ...] = ()
    """(metric or pattern with one `*`, label); a pattern's label is what the star stands for. `a+b` is a sum."""
    form: Form = "number"
    log: bool = False
    """Logarithmic, where the values are positive and span more than a factor of 8."""
    zero: bool = False
    """The axis starts at 0."""
    smooth: bool = False
    band: tuple[str, str] | None = None
    """Metrics of the lower and upper edge of a shaded area."""
    histogram: str = ""
    """A metric of the form {"edges", "counts"}: the panel is its heatmap, `lines[0]` the curve over it."""
    stacked: bool = False


@dataclass(frozen=True)
class Group:
    """A section of the page."""

    title: str
    note: str
    panels: tuple[Panel, ...]


GROUPS = (
    Group(
        "Learning",
        "",
        (
            Panel(
                title="Reward",
                note="mean over the step's responses",
                lines=(("reward/mean", "reward"), ("reward/accuracy", "accuracy"), ("reward/pass@1", "pass@1"),
                       ("reward/pass@group", "any of the group right")),
                smooth=True,
            ),
            Panel(title="Held-out accuracy", note="measured during training", lines=(("eval/*", ""),), form="share"),
            Panel(
                title="Groups without a signal",
                note="all responses right, or all wrong: their advantage is zero",
                lines=(
                    ("reward/zero_variance_groups", "all"),
                    ("reward/all_right_groups", "all right"),
                    ("reward/all_wrong_groups", "all wrong"),
                ),
                form="share",
                zero=True,
            ),
            Panel(
                title="Policy entropy",
                note="nats a token",
                lines=(("policy/entropy", "entropy"),),
                zero=True,
                smooth=True,
            ),
        ),
    ),
    Group(
        "Elastic trust region",
        "Each response has a clip range of its own: wider where its advantage is large and its group's outcome open.",
        (
            Panel(
                title="Tokens cut by the region",
                note="share of all response tokens",
                lines=(("clip/low", "at the low bound"), ("clip/high", "at the high bound"), ("clip/dual", "dual clip")),
                form="share",
                zero=True,
                smooth=True,
            ),
            Panel(
                title="Against a static region",
                note="what fixed bounds would have cut of the same tokens",
                lines=(
                    ("clip/low+clip/high", "as trained"),
                    ("clip/static_low+clip/static_high", "static bounds"),
                    ("clip/differs_from_static", "tokens on which they differ"),
                ),
                form="share",
                zero=True,
                smooth=True,
            ),
            Panel(
                title="Cut at the low bound, by pass rate of the group",
                lines=(("clip/low_pass_rate_*", ""),),
                form="share",
                zero=True,
                smooth=True,
            ),
            Panel(
                title="Cut at the high bound, by pass rate of the group",
                lines=(("clip/high_pass_rate_*", ""),),
                form="share",
                zero=True,
                smooth=True,
            ),
            Panel(
                title="Elastic scale over training",
                note="factor on both bounds; the darker, the more responses",
                histogram="hist/scale",
                lines=(("bounds/scale_mean", "mean"),),
            ),
            Panel(
                title="Elastic scale",
                note="mean, and the range from smallest to largest",
                lines=(("bounds/scale_mean", "mean"),),
                band=("bounds/scale_min", "bounds/scale_max"),
                zero=True,
            ),
            Panel(
                title="Low bound",
                note="largest allowed fall of a token's probability ratio",
                lines=(
                    ("bounds/eps_low_mean", "mean of responses"),
                    ("bounds/eps_low_token_mean", "mean of tokens"),
                    ("bounds/eps_low_live_mean", "mean of live tokens"),
                ),
                band=("bounds/eps_low_min", "bounds/eps_low_max"),
                zero=True,
            ),
            Panel(
                title="High bound",
                note="largest allowed rise of a token's probability ratio",
                lines=(
                    ("bounds/eps_high_mean", "mean of responses"),
                    ("bounds/eps_high_token_mean", "mean of tokens"),
                    ("bounds/eps_high_live_mean", "mean of live tokens"),
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
        "Policy",
        "",
        (
            Panel(
                title="KL to the policy before the step",
                note="nats a token; k3 is the low-variance estimate",
                lines=(
                    ("policy/kl_old_k3", "k3, mean"),
                    ("policy/kl_old_k3_median", "k3, median"),
                ),
                log=True,
            ),
            Panel(
                title="KL to the policy before the step, k1",
                note="nats a token; unbiased, noisy, may be negative",
                lines=(("policy/kl_old_k1", "k1"),),
            ),
            Panel(
                title="KL to the reference",
                note="nats a token",
                lines=(("policy/kl_ref_k3", "k3"), ("policy/kl_ref_k1", "k1")),
            ),
            Panel(
                title="Probability ratio",
                note="mean and median over tokens",
                lines=(("policy/ratio_mean", "mean"), ("policy/ratio_median", "median")),
            ),
            Panel(
                title="Extreme ratios",
                note="single tokens can move far",
                lines=(("policy/ratio_max", "largest"), ("policy/ratio_min", "smallest")),
                log=True,
            ),
            Panel(
                title="Gap between engine and trainer",
                note="|log-prob of the rollout engine − of the trainer|, same weights",
                lines=(
                    ("gap/max", "largest"),
                    ("gap/mean", "mean"),
                    ("gap/raw_max", "largest at temperature 1"),
                    ("gap/raw_mean", "mean at temperature 1"),
                ),
                log=True,
            ),
            Panel(
                title="Gap as a factor",
                note="mean exp|gap|; 1 is no gap",
                lines=(
                    ("gap/mean_exp", "mean exp"),
                    ("gap/raw_mean_exp", "mean exp at temperature 1"),
                    ("gap/is_weight", "importance weight"),
                ),
            ),
            Panel(
                title="Gradient norm", note="before clipping", lines=(("optim/grad_norm", "norm"),), zero=True, smooth=True
            ),
            Panel(title="Learning rate", lines=(("optim/lr", "rate"),), zero=True),
            Panel(title="Loss", lines=(("policy/loss", "loss"),), smooth=True),
            Panel(title="Live tokens", note="tokens whose advantage is not zero", lines=(("policy/live_tokens", "live"),),
                  form="share", zero=True),
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
                title="Verifier: what went wrong",
                note="answers since the stage was started",
                lines=(
                    ("verify/timeouts", "time-outs"),
                    ("verify/parse_failures", "not parsed"),
                    ("verify/deaths", "workers died"),
                    ("verify/respawns", "workers replaced"),
                ),
                zero=True,
            ),
            Panel(
                title="Verifier: work",
                note="answers since the stage was started",
                lines=(("verify/graded", "graded"), ("verify/cache_hits", "known from before")),
                zero=True,
            ),
        ),
    ),
    Group(
        "Speed",
        "",
        (
            Panel(
                title="Seconds a step, by phase", lines=(("seconds/*", ""),), form="seconds", stacked=True
            ),
            Panel(title="Tokens a second", lines=(("speed/*tokens_per_s", ""),), zero=True),
            Panel(title="Share of the hardware's peak", lines=(("speed/*mfu", ""),), form="share", zero=True),
        ),
    ),
)  # fmt: skip
