"""Setup of a process for a vLLM engine, before it first imports vLLM."""

import importlib.util
import os
import secrets
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine runs in this process, so that its weights can be written
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # keeps the cores that torchrun gave to each rank
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # V2 needs Triton, and has another sampler than `sampler` extends
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CONFIGURE_LOGGING": "1",
    "HF_HUB_OFFLINE": "1",
}


def installed() -> bool:
    """Whether vLLM can be imported."""
    return importlib.util.find_spec("vllm") is not None


def prepare() -> None:
    """Sets the process up. Call it before `import vllm` and after torch.distributed is initialised.

    Variables that the user has set stay, except two that have only one right value.

    On a CPU it turns oneDNN off for vLLM's matrix products. oneDNN packs the weights at load, and vLLM would use the
    old packed weights after an update (silently, if embeddings are tied). Without it, products read the parameters.
    Experts are packed at every use instead of once.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    os.environ.setdefault("LOCAL_RANK", "0")
    if not torch.cuda.is_available():
        leave_weights_unpacked()
        _name_shared_memory()


def leave_weights_unpacked() -> None:
    """Keeps vLLM on a CPU from computing with packed copies of the weights, which an update would not reach. Call it before
    the model is built."""
    import vllm._custom_ops as operators

    operators._supports_onednn = False
    _leave_experts_unpacked()


def _leave_experts_unpacked() -> None:
    """Makes vLLM pack experts whenever the kernel runs.

    vLLM 0.32.0 (model_executor/layers/fused_moe/experts/cpu_moe.py:208) replaces the experts' parameters by packed ones
    at load. A later update would write unpacked weights into them. Packing each time copies one layer's experts per
    step; that is acceptable on a CPU, where such models are only tried out.
    """
    from vllm.model_executor.layers.fused_moe.experts import cpu_moe

    experts: Any = cpu_moe.CPUUnquantizedExperts
    if hasattr(experts, "etr_apply"):
        return
    pack, experts.etr_apply = cpu_moe.cpu_prepack_moe_weight, experts.apply

    def apply(self: Any, output: Any, hidden_states: Any, w1: Any, w2: Any, *others: Any, **named: Any) -> Any:
        return experts.etr_apply(self, output, hidden_states, pack(w1, self.isa), pack(w2, self.isa), *others, **named)

    experts.apply = apply
    cpu_moe.cpu_prepack_moe_weight = lambda weight, isa: weight


def _name_shared_memory() -> None:
    """Gives this world's shared memory a unique name, and removes its files once all ranks have mapped it. A
    collective.

    vLLM 0.32.0 (distributed/device_communicators/cpu_communicator.py:235) names the memory of its CPU ranks after the
    port of its rendezvous. An engine that joins an existing world has no such port. Two runs on one machine, or a run
    after a killed one, would use the same name and fail.
    """
    from vllm.distributed.device_communicators import cpu_communicator

    token = [secrets.token_hex(6)]
    if dist.is_initialized():
        dist.broadcast_object_list(token, src=0)
    parent = cpu_communicator._CPUSHMDistributed
    if hasattr(parent, "etr_token"):
        parent.etr_token = token[0]
        return

    class NamedMemory(parent):  # type: ignore[misc, valid-type]
        etr_token = token[0]

        @staticmethod
        def make_group_name(communicator: Any) -> str:
            name = parent.make_group_name(communicator).replace("/", "")  # of `env://`
            return f"etr-{NamedMemory.etr_token}{name}"

        def _init_cpu_shm(self) -> int:
            handle = super()._init_cpu_shm()
            # Every rank has mapped it by now. Without a file the memory is freed when the last rank ends, even if
            # killed.
            Path("/dev/shm", f"{self.group_name}_{self.communicator.rank}").unlink(missing_ok=True)
            return handle

    cpu_communicator._CPUSHMDistributed = NamedMemory
