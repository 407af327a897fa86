"""The lines of megatron-core 0.16.1 that assume CUDA, and their replacements on a CPU.

Upstream names the CUDA device in about eighty places instead of using the device of a tensor. Nearly all are one of
five idioms, so the table below is `module -> {idiom: number of occurrences}`. The counts are exact. If one differs, the
import fails with the rule's name (`megatron_patches.upstream.cpu.hook`), because a line that stayed on CUDA would fail
in the middle of a run. A replacement does not change line numbers, so tracebacks still point at the upstream source.

The table can go when megatron-core uses `torch.get_default_device()` or the device of its inputs.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Idiom:
    """Spellings of "on the GPU", and their CPU replacements in the same order."""

    spellings: tuple[str, ...]
    replacements: tuple[str, ...]

    def on(self, device: str) -> "Idiom":
        """The idiom with replacements that name another device than the CPU."""
        named = (
            (".cpu()", f'.to("{device}")'),
            ("'torch.", f"'torch.{device}."),
            ("'cpu'", f"'{device}'"),
            ('"cpu"', f'"{device}"'),
        )
        texts = list(self.replacements)
        for old, new in named:
            texts = [text.replace(old, new) for text in texts]
        return replace(self, replacements=tuple(texts))


@dataclass(frozen=True)
class Line:
    """One line of one module that no idiom covers."""

    name: str
    before: str
    after: str
    reason: str


CURRENT_DEVICE = Idiom(("torch.cuda.current_device()",), ('torch.device("cpu")',))
CUDA_LITERAL = Idiom(('device="cuda"', "device='cuda'"), ('device="cpu"', "device='cpu'"))
TYPE_STRING = Idiom(
    ("'torch.cuda.FloatTensor'", "'torch.cuda.HalfTensor'", "'torch.cuda.BFloat16Tensor'"),
    ("'torch.FloatTensor'", "'torch.HalfTensor'", "'torch.BFloat16Tensor'"),
)
SYNCHRONIZE = Idiom(("torch.cuda.synchronize()",), ("None",))
MOVE = Idiom((".cuda()", ".cuda(non_blocking=True)"), (".cpu()", ".cpu()"))

IDIOM_COUNTS: dict[str, dict[Idiom, int]] = {
    "megatron.core.models.common.embeddings.rotary_pos_embedding": {CURRENT_DEVICE: 3},
    "megatron.core.models.common.embeddings.rope_utils": {MOVE: 1},
    "megatron.core.models.common.language_module.language_module": {MOVE: 1},
    "megatron.core.tensor_parallel.mappings": {CURRENT_DEVICE: 5},
    "megatron.core.tensor_parallel.layers": {CURRENT_DEVICE: 8},
    "megatron.core.utils": {CURRENT_DEVICE: 2, CUDA_LITERAL: 6, SYNCHRONIZE: 1, MOVE: 1},
    "megatron.core.distributed.param_and_grad_buffer": {CURRENT_DEVICE: 3, CUDA_LITERAL: 1},
    "megatron.core.optimizer.distrib_optimizer": {CURRENT_DEVICE: 2, TYPE_STRING: 5, MOVE: 1},
    "megatron.core.optimizer.clip_grads": {CUDA_LITERAL: 5, TYPE_STRING: 1},
    "megatron.core.optimizer.optimizer": {CURRENT_DEVICE: 1, CUDA_LITERAL: 4, TYPE_STRING: 3, MOVE: 2},
    "megatron.core.pipeline_parallel.p2p_communication": {CURRENT_DEVICE: 6, SYNCHRONIZE: 2},
    "megatron.core.pipeline_parallel.schedules": {CUDA_LITERAL: 3},
    "megatron.core.dist_checkpointing.strategies.async_utils": {CURRENT_DEVICE: 2, SYNCHRONIZE: 1},
    "megatron.core.dist_checkpointing.strategies.filesystem_async": {SYNCHRONIZE: 1},
    "megatron.core.dist_checkpointing.strategies.fully_parallel": {SYNCHRONIZE: 2},
    "megatron.core.dist_checkpointing.strategies.state_dict_saver": {CURRENT_DEVICE: 1, CUDA_LITERAL: 1},
    "megatron.core.dist_checkpointing.exchange_utils": {CUDA_LITERAL: 3, MOVE: 2},
    "megatron.core.transformer.utils": {CUDA_LITERAL: 2},
    "megatron.core.transformer.transformer_layer": {CURRENT_DEVICE: 2},
    "megatron.core.transformer.moe.router": {CURRENT_DEVICE: 6},
    "megatron.core.transformer.moe.experts": {CURRENT_DEVICE: 2},
    "megatron.core.transformer.moe.moe_utils": {CUDA_LITERAL: 1},
}

LINES: dict[str, tuple[Line, ...]] = {
    "megatron.core.jit": (
        Line(
            "no-jit",
            "\nenable_jit_fuser()",
            "\ndisable_jit_fuser()",
            "torch.compile of small elementwise functions costs minutes of C++ compilation on a CPU",
        ),
    ),
    "megatron.core.models.common.embeddings.rope_utils": (
        Line(
            "no-pinned-cp-index",
            'device="cpu", pin_memory=True',
            'device="cpu", pin_memory=False',
            "pinned memory needs a CUDA driver",
        ),
    ),
    "megatron.core.tensor_parallel.random": (
        Line(
            "rng-get",
            "return torch.cuda.random.get_rng_state(device=device)",
            "return torch.get_rng_state()",
            "the tracker forks the generator that the layers draw from, which is the CPU's",
        ),
        Line("rng-set", "    _lazy_call(cb)", "    torch.set_rng_state(new_state)", "as rng-get"),
        Line(
            "rng-save",
            "orig_rng_state = torch.cuda.get_rng_state()",
            "orig_rng_state = torch.get_rng_state()",
            "as rng-get",
        ),
        Line(
            "rng-seed", "            torch.cuda.manual_seed(seed)", "            torch.manual_seed(seed)", "as rng-get"
        ),
        Line(
            "rng-store",
            "self.states_[name] = torch.cuda.get_rng_state()",
            "self.states_[name] = torch.get_rng_state()",
            "as rng-get",
        ),
        Line(
            "rng-default",
            "    torch.cuda.manual_seed(data_parallel_seed)",
            "    torch.manual_seed(data_parallel_seed)",
            "as rng-get",
        ),
        Line(
            "rng-no-warning",
            "if not torch.all(cpu_rng_state == torch.get_rng_state()).item():",
            "if False:",
            "on a CPU the tracked generator is the CPU generator, so the warning that it changed would always appear",
        ),
    ),
    "megatron.core.dist_checkpointing.strategies.async_utils": (
        Line(
            "no-set-device",
            "torch.cuda.set_device(rank % torch.cuda.device_count())",
            "None",
            "the persistent checkpoint worker chooses a GPU, but there is no GPU",
        ),
    ),
    "megatron.core.transformer.moe.moe_utils": (
        Line(
            "counts-to-host",
            "if torch.is_tensor(tensor) and tensor.is_cuda:",
            "if torch.is_tensor(tensor):",
            "token counts on the CPU must become numpy too, or all_to_all gets tensors for its split sizes",
        ),
    ),
    "megatron.core.transformer.moe.token_dispatcher": (
        Line(
            "no-dtoh-stream",
            "MoEAlltoAllTokenDispatcher.cuda_dtoh_stream = torch.cuda.Stream()",
            "pass",
            "counts are already on the host, so no copy stream is needed",
        ),
        Line(
            "no-side-stream",
            "on_side_stream = torch.cuda.current_stream() != self.cuda_dtoh_stream",
            "on_side_stream = False",
            "as no-dtoh-stream",
        ),
        Line(
            "no-stream-context",
            "with torch.cuda.stream(self.cuda_dtoh_stream):",
            "with __import__('contextlib').nullcontext():",
            "as no-dtoh-stream",
        ),
        Line(
            "no-dtoh-event",
            "self.d2h_event = self.cuda_dtoh_stream.record_event()",
            "pass",
            "as no-dtoh-stream",
        ),
        Line("no-dtoh-wait", "self.d2h_event.synchronize()", "pass", "as no-dtoh-stream"),
    ),
}


def use_device(name: str) -> None:
    """Makes the replacements name the device `name` in the place of the CPU. Call it before `megatron.core` is imported."""
    for module, idioms in IDIOM_COUNTS.items():
        IDIOM_COUNTS[module] = {idiom.on(name): count for idiom, count in idioms.items()}
