"""The list of every change that this project makes to megatron-core: what upstream does, why that is wrong for us, and
when the change can go. `install()` checks all of them against the installed source first, and changes nothing if one
does not match. `report()` makes the table of `stage=doctor`.
"""

import importlib.metadata
import importlib.util
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from megatron_patches.upstream.cpu import hook
from megatron_patches.upstream.cpu.rules import IDIOM_COUNTS, LINES

PINNED = "0.16.1"


@dataclass(frozen=True)
class Replacement:
    """A part of megatron-core that this project replaces.

    `expects` are pieces of text that the upstream file must contain. The first is the reason for the replacement, is
    within one line, and is the line that `report` shows. The others are code that the replacement relies on.
    `elsewhere` is such code in other modules, as `(module, piece)`.
    """

    name: str
    module: str
    expects: tuple[str, ...]
    ours: str
    reason: str
    elsewhere: tuple[tuple[str, str], ...] = ()

    def pieces(self) -> list[tuple[str, str]]:
        """Lists all text that upstream must contain, as `(module, piece)`."""
        return [(self.module, piece) for piece in self.expects] + list(self.elsewhere)


REPLACEMENTS = (
    Replacement(
        name="policy-head",
        module="megatron.core.models.gpt.gpt_model",
        expects=("        logits, _ = self.output_layer(", "    def _postprocess("),
        ours="megatron_patches.model.policy_model.PolicyModel",
        reason="the last stage computes the logits of every position, V numbers each, before a loss can choose; ours "
        "passes hidden states and output weight to the policy head, which never holds all logits",
    ),
    Replacement(
        name="core-attention",
        module="megatron.core.transformer.dot_product_attention",
        expects=("Context parallelism is only supported by TEDotProductAttention!", "Packed sequence is not supported"),
        ours="megatron_patches.model.attention.SdpaCoreAttention",
        reason="the local attention rejects packed rows and context parallelism; ours does both with torch's "
        "scaled_dot_product_attention. Can go when transformer-engine runs everywhere",
    ),
    Replacement(
        name="rms-norm",
        module="megatron.core.transformer.torch_norm",
        expects=("assert not config.sequence_parallel",),
        ours="megatron_patches.model.norm.RMSNorm",
        reason="the torch norm rejects sequence parallelism, which needs only an attribute on the weight",
    ),
    Replacement(
        name="rope-scaling",
        module="megatron.core.models.common.embeddings.rotary_pos_embedding",
        expects=(
            "self.inv_freq = self._apply_scaling(self.inv_freq, factor=rope_scaling_factor)",
            "        original_max_position_embeddings=8192,",
        ),
        ours="megatron_patches.model.policy_model.stretch_low_frequencies",
        reason="of Llama 3.1's four numbers upstream uses only the factor; ours reads all of them from model.rope",
    ),
    Replacement(
        name="adam",
        module="megatron.core.optimizer.distrib_optimizer",
        expects=('s["step"].item() for s in inner_state_dict["state"].values()', "HAVE_APEX_OR_TE = False"),
        elsewhere=(("megatron.core.optimizer", "USING_PYTORCH_OPTIMIZER = True"),),
        ours="megatron_patches.training.optimizer.FusedLikeAdam",
        reason="the distributed optimizer's checkpoints need an Adam that keeps `step` in the param group, as apex and "
        "transformer-engine do; torch's AdamW breaks them, in bf16 silently on resume. Only if neither is installed",
    ),
    Replacement(
        name="router-gemm",
        module="megatron.core.transformer.moe.moe_utils",
        expects=("if te_general_gemm is not None and router_dtype != torch.float64:",),
        ours="megatron_patches.model.policy_model (te_general_gemm = None)",
        reason="without transformer-engine the name is never defined, and the router's first forward is a NameError",
    ),
    Replacement(
        name="dispatcher-state",
        module="megatron.core.transformer.moe.token_dispatcher",
        expects=(
            "        self.probs = probs",
            "        self.routing_map = routing_map",
            "            self.reversed_local_input_permutation_mapping,",
            "    def combine_postprocess(self, permutated_local_input_tokens):",
        ),
        elsewhere=(
            (
                "megatron.core.transformer.moe.moe_layer",
                "        output = self.token_dispatcher.combine_postprocess(output)",
            ),
        ),
        ours="megatron_patches.model.dispatcher.forget_after_forward",
        reason="the dispatcher keeps the router's probabilities, and with them the layer's graph, until its next forward pass: "
        "beyond the backward pass and the optimizer step, while responses are generated; ours lets go of them",
    ),
    Replacement(
        name="routing-replay",
        module="megatron.core.transformer.moe.router_replay",
        expects=("router_instance.set_target_indices(all_layers_topk_indices[i])", "    def get_replay_topk("),
        elsewhere=(
            ("megatron.core.transformer.moe.router", "                router_replay=self.router_replay,"),
            ("megatron.core.transformer.moe.moe_utils", "            return router_replay.get_replay_topk("),
            (
                "megatron.core.transformer.moe.moe_utils",
                "                scores, topk, num_groups, group_topk, _compute_topk",
            ),
        ),
        ours="megatron_patches.model.routing.RouterMemory",
        reason="upstream's memory is one list for all models of a process, keeps one micro-batch, and must be told when layers "
        "are recomputed; ours belongs to a policy and sees that itself. Only with rl.routing_replay",
    ),
    Replacement(
        name="grouped-experts",
        module="megatron.core.transformer.moe.experts",
        expects=(
            "            for expert, tokens, probs in zip(self.local_experts, tokens_list, probs_list):",
            "class SequentialMLP(MegatronModule):",
            "        permuted_probs: torch.Tensor,",
        ),
        elsewhere=(
            (
                "megatron.core.transformer.mlp",
                "                intermediate_parallel = intermediate_parallel * per_token_scale.unsqueeze(-1)",
            ),
        ),
        ours="megatron_patches.model.grouped_experts.GroupedExperts",
        reason="local experts run one by one; ours makes one product for all, with the same parameters. Only with "
        "rl.grouped_experts, and not in Transformer Engine's layers, which have their own",
    ),
    Replacement(
        name="weight-gradients",
        module="megatron.core.tensor_parallel.layers",
        expects=(
            "    import fused_weight_gradient_mlp_cuda",
            "                        fused_weight_gradient_mlp_cuda.wgrad_gemm_accum_fp32(",
            "_grad_accum_fusion_available = False",
        ),
        ours="megatron_patches.model.weight_gradients.TorchProducts",
        reason="adding a weight gradient to the fp32 buffer within its product needs apex's extension; torch's product with "
        "fp32 sums does the same. Only with rl.fused_grad_accumulation, and where apex is not installed",
    ),
    Replacement(
        name="results-queue",
        module="megatron.core.dist_checkpointing.strategies.filesystem_async",
        expects=("_results_queue = ctx.Manager().Queue()", 'ctx = mp.get_context("spawn")'),
        ours="megatron_patches.model.checkpoint_saving.Saver",
        reason="the queue of a synchronous save starts a spawned manager process that imports the entry script again: "
        "seconds at the first save, and a hang if that script has no __main__ guard",
    ),
    Replacement(
        name="writer",
        module="megatron.core.dist_checkpointing.strategies.filesystem_async",
        expects=(
            'ctx = mp.get_context("fork")',
            "            partial(self.write_preloaded_data_multiproc, transform_list, self.use_msc),",
            "    def write_preloaded_data(",
            "            [torch.distributed.get_rank(), self.write_buckets, self.results_queue],",
        ),
        elsewhere=(
            (
                "megatron.core.dist_checkpointing.strategies.torch",
                "        return AsyncRequest(save_fn, save_args, [finalize_fn], preload_fn=preload_fn)",
            ),
        ),
        ours="megatron_patches.model.checkpoint_saving.Saver",
        reason="upstream forks a process for each file, also in a synchronous save; it outlives a rank that is killed, with "
        "its sockets and shared memory. Ours calls the same writer in the rank: at once, or in a thread that ends with it",
    ),
    Replacement(
        name="safe-reading",
        module="megatron.core.dist_checkpointing.strategies.torch",
        expects=(
            "        fsr = _get_filesystem_reader(checkpoint_dir, cache_metadata=True)",
            "            planner=MCoreLoadPlanner(",
            "        fs_reader = _get_filesystem_reader(checkpoint_dir)",
        ),
        elsewhere=(
            ("megatron.core.dist_checkpointing.strategies.common", "    def load_common(self, checkpoint_dir"),
            (
                "megatron.core.dist_checkpointing.strategies.cached_metadata_filesystem_reader",
                "    def read_metadata(self) -> Metadata:",
            ),
        ),
        ours="megatron_patches.model.safe_reading.SafeReader",
        reason="torch unpickles a checkpoint's .metadata and object entries without limits, so a folder from elsewhere "
        "runs commands as it is read; ours knows only the classes that such files need and refuses any other by name",
    ),
    Replacement(
        name="global-loss",
        module="megatron.core.pipeline_parallel.schedules",
        expects=("output_tensor /= torch.clamp(num_tokens, min=1)", "if not config.calculate_per_token_loss:"),
        elsewhere=(
            ("megatron.core.distributed.distributed_data_parallel", "if config.calculate_per_token_loss:"),
            ("megatron.core.distributed.finalize_model_grads", "if num_tokens is not None:"),
        ),
        ours="megatron_patches.training.policy_loss.finalize_grads",
        reason="upstream averages over micro-batches and ranks; the policy loss is already divided by its global "
        "denominator, so gradients are summed: calculate_per_token_loss is on and finalize_model_grads does not divide",
    ),
)


def upstream_source(module: str) -> str:
    """Reads the text of a megatron-core module, without importing the module.

    Raises ImportError if megatron-core is not installed.
    """
    root = importlib.util.find_spec("megatron.core")
    if root is None or root.origin is None:
        raise ImportError("megatron-core is not installed; run `bash run.sh` once, which makes the environment")
    path = Path(root.origin).parent / module.removeprefix("megatron.core.").replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return path.read_text(encoding="utf-8")


def check(source: Callable[[str], str] = upstream_source) -> None:
    """Compares every patch with megatron-core's source, and changes nothing.

    Raises ImportError that names the first patch that does not match. `source` returns the text of a module.
    """
    version = importlib.metadata.version("megatron-core")
    if version != PINNED:
        raise ImportError(
            f"megatron-core {version} is installed, the patches are for {PINNED}; install that version (requirements/)"
        )
    for replacement in REPLACEMENTS:
        for module, piece in replacement.pieces():
            if piece not in source(module):
                raise ImportError(
                    f"patch {replacement.name}: {module} no longer contains {piece.strip()!r}; this megatron-core is "
                    f"not the pinned {PINNED}, reinstall it (requirements/)"
                )
    if needs_cpu():
        for module in hook.patched_modules():
            hook.rewrite(source(module), module)


def needs_cpu() -> bool:
    """Whether this process needs the CPU patches: there is no CUDA device."""
    return not torch.cuda.is_available()


def install() -> None:
    """Checks every patch, then installs the import hook if there is no CUDA. Calling it again does nothing.

    Raises ImportError if a patch does not match the installed megatron-core.
    """
    # Upstream warns at every import and checkpoint, on every rank, about missing extensions and deprecated torch calls.
    # The person who runs a stage cannot act on that.
    for origin in (r"megatron\.", r"torch\.distributed\."):
        warnings.filterwarnings("ignore", module=origin)
    check()
    if needs_cpu():
        hook.install()


def line_of(replacement: Replacement) -> int:
    """Finds the line number, in the installed file, of the reason for the replacement."""
    text = upstream_source(replacement.module)
    return text[: text.index(replacement.expects[0])].count("\n") + 1


def report() -> list[dict[str, str]]:
    """Makes one row per patch: name, upstream (file and line of the installed source), version, reason, status."""
    rows = [
        {
            "name": r.name,
            "upstream": f"{r.module.replace('.', '/')}.py:{line_of(r)}",
            "version": PINNED,
            "reason": r.reason,
            "status": f"replaced by {r.ours}",
        }
        for r in REPLACEMENTS
    ]
    status = "applied" if needs_cpu() else "not needed: CUDA is available"
    for module in hook.patched_modules():
        lines = upstream_source(module).splitlines()
        spellings = [s for idiom in IDIOM_COUNTS.get(module, {}) for s in idiom.spellings]
        spellings += [line.before.strip("\n") for line in LINES.get(module, ())]
        hits = [str(n) for n, text in enumerate(lines, 1) if any(s in text for s in spellings)]
        reasons = sorted({line.reason for line in LINES.get(module, ()) if not line.reason.startswith("as ")})
        rows.append(
            {
                "name": f"cpu/{module.removeprefix('megatron.core.')}",
                "upstream": f"{module.replace('.', '/')}.py:{','.join(hits)}",
                "version": PINNED,
                "reason": "; ".join(
                    ["names the CUDA device instead of the tensor's"] * bool(IDIOM_COUNTS.get(module)) + reasons
                ),
                "status": status,
            }
        )
    return rows
