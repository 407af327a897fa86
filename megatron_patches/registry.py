"""Every change that this project makes to megatron-core, in one list: what upstream does, why it is wrong for us, when it
can go. `install()` applies what a process needs and refuses a megatron-core whose source no longer matches, before
anything of it is changed; `report()` is what `stage=doctor` prints.
"""

import importlib.metadata
import importlib.util
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_patches.cpu import hook
from megatron_patches.cpu.rules import IDIOM_COUNTS, LINES

PINNED = "0.16.1"


@dataclass(frozen=True)
class Replacement:
    """A part of megatron-core for which this project has its own.

    `expects` are pieces of the upstream file that must still stand there: they are the reason for the replacement or
    the seam that it uses.
    """

    name: str
    module: str
    line: int
    expects: tuple[str, ...]
    ours: str
    reason: str


REPLACEMENTS = (
    Replacement(
        name="policy-head",
        module="megatron.core.models.gpt.gpt_model",
        line=696,
        expects=("        logits, _ = self.output_layer(", "    def _postprocess("),
        ours="megatron_patches.policy_model.PolicyModel",
        reason="the last stage makes the logits of every position, V numbers each, before a loss can choose; ours hands "
        "the hidden states and the output weight to the policy head, which never holds them",
    ),
    Replacement(
        name="core-attention",
        module="megatron.core.transformer.dot_product_attention",
        line=56,
        expects=("Context parallelism is only supported by TEDotProductAttention!", "Packed sequence is not supported"),
        ours="megatron_patches.attention.SdpaCoreAttention",
        reason="the local attention refuses packed rows and context parallelism; ours does both with torch's "
        "scaled_dot_product_attention. Goes when transformer-engine runs everywhere",
    ),
    Replacement(
        name="rms-norm",
        module="megatron.core.transformer.torch_norm",
        line=55,
        expects=("assert not config.sequence_parallel",),
        ours="megatron_patches.norm.RMSNorm",
        reason="the torch norm refuses sequence parallelism, whose only need is a mark on the weight",
    ),
    Replacement(
        name="adam",
        module="megatron.core.optimizer.distrib_optimizer",
        line=45,
        expects=("HAVE_APEX_OR_TE = False",),
        ours="megatron_patches.optimizer.FusedLikeAdam",
        reason="the distributed optimizer's checkpoints need an Adam that keeps `step` in the param group, as apex and "
        "transformer-engine do; torch's AdamW breaks them, in bf16 silently on resume. Only where neither is installed",
    ),
    Replacement(
        name="router-gemm",
        module="megatron.core.transformer.moe.moe_utils",
        line=1192,
        expects=("if te_general_gemm is not None and router_dtype != torch.float64:",),
        ours="megatron_patches.policy_model (te_general_gemm = None)",
        reason="without transformer-engine the name is never bound, and the router's first forward is a NameError",
    ),
    Replacement(
        name="results-queue",
        module="megatron.core.dist_checkpointing.strategies.filesystem_async",
        line=51,
        expects=("_results_queue = ctx.Manager().Queue()", 'ctx = mp.get_context("spawn")'),
        ours="megatron_patches.checkpoint.save",
        reason="the queue of a synchronous save starts a spawned manager process that imports the entry script again: "
        "seconds at the first save, and a hang when that script has no __main__ guard",
    ),
    Replacement(
        name="global-loss",
        module="megatron.core.pipeline_parallel.schedules",
        line=259,
        expects=("if not config.calculate_per_token_loss:", "output_tensor /= num_microbatches"),
        ours="megatron_patches.policy_loss.finalize_grads",
        reason="upstream averages over micro-batches and ranks; the policy loss carries its global denominator already, so "
        "gradients are summed: calculate_per_token_loss is on and finalize_model_grads divides by nothing",
    ),
)


def _source(module: str) -> str:
    """Text of a megatron-core module, found without importing it or its parents."""
    root = importlib.util.find_spec("megatron.core")
    if root is None or root.origin is None:
        raise ImportError("megatron-core is not installed; run `bash run.sh` once, it makes the environment")
    relative = module.removeprefix("megatron.core.").replace(".", "/") + ".py"
    return (Path(root.origin).parent / relative).read_text(encoding="utf-8")


def check() -> None:
    """Compare every patch with the installed source. Raises ImportError naming the first that does not match."""
    version = importlib.metadata.version("megatron-core")
    if version != PINNED:
        raise ImportError(f"megatron-core {version} is installed, the patches are for {PINNED} (requirements/)")
    for replacement in REPLACEMENTS:
        text = _source(replacement.module)
        for piece in replacement.expects:
            if piece not in text:
                raise ImportError(f"patch {replacement.name}: {replacement.module} no longer holds {piece.strip()!r}")
    if needs_cpu():
        for module in hook.patched_modules():
            hook.rewrite(_source(module), module)


def needs_cpu() -> bool:
    return not torch.cuda.is_available()


def install() -> None:
    """Check every patch, then put the import hook in place where there is no CUDA. Idempotent."""
    # Upstream says at every import and checkpoint which extensions are missing and which torch calls are deprecated, on
    # every rank; none of it is for the person who runs a stage.
    for origin in (r"megatron\.", r"torch\.distributed\."):
        warnings.filterwarnings("ignore", module=origin)
    check()
    if needs_cpu():
        hook.install()


def report() -> list[dict[str, str]]:
    """One row a patch: name, upstream (file and line), reason, status."""
    rows = [
        {
            "name": r.name,
            "upstream": f"{r.module.replace('.', '/')}.py:{r.line}",
            "reason": r.reason,
            "status": f"replaced by {r.ours}",
        }
        for r in REPLACEMENTS
    ]
    status = "applied" if needs_cpu() else "not needed: CUDA is here"
    for module in hook.patched_modules():
        lines = _source(module).splitlines()
        spellings = [s for idiom in IDIOM_COUNTS.get(module, {}) for s in idiom.spellings]
        spellings += [line.before.strip("\n") for line in LINES.get(module, ())]
        hits = [str(n) for n, text in enumerate(lines, 1) if any(s in text for s in spellings)]
        reasons = sorted({line.reason for line in LINES.get(module, ()) if not line.reason.startswith("as ")})
        rows.append(
            {
                "name": f"cpu/{module.removeprefix('megatron.core.')}",
                "upstream": f"{module.replace('.', '/')}.py:{','.join(hits)}",
                "reason": "; ".join(
                    ["names the CUDA device instead of the tensor's"] * bool(IDIOM_COUNTS.get(module)) + reasons
                ),
                "status": status,
            }
        )
    return rows
