"""What a process that holds a vLLM engine must set up before vLLM is first imported."""

import importlib.util
import os
import secrets
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SETTINGS = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # the engine lives in this process, where its weights can be written
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # ranks share the cores as torchrun has dealt them out
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # its sampler is another one, which `sampler` does not extend
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_CONFIGURE_LOGGING": "1",
    "HF_HUB_OFFLINE": "1",
}


def installed() -> bool:
    """Whether vLLM can be imported."""
    return importlib.util.find_spec("vllm") is not None


def prepare() -> None:
    """Set the process up. Variables that the user has set are kept, except where only one value is right.

    On a CPU, oneDNN is switched off for vLLM's matrix products: it packs the weights away when a model is loaded and goes
    on with the packed ones after an update (silently, where embeddings are tied). Without it the products read the
    parameters themselves. Experts are packed at every use instead of once.

    To be called before `import vllm`; torch.distributed is to be initialised by then.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    os.environ.setdefault("LOCAL_RANK", "0")
    if not torch.cuda.is_available():
        import vllm._custom_ops as operators

        operators._supports_onednn = False
        _leave_experts_unpacked()
        _name_shared_memory()


def _leave_experts_unpacked() -> None:
    """Pack experts each time the kernel runs.

    vLLM 0.32.0 (model_executor/layers/fused_moe/experts/cpu_moe.py:208) replaces the experts' parameters by packed ones
    when a model is loaded, and what is loaded later would be written into those as if they were not. Packing costs a copy
    of one layer's experts a step, which a CPU, where such models are only tried out, can bear.
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
    """Give this world's shared memory a unique name, and remove it when the processes end. A collective.

    vLLM 0.32.0 (distributed/device_communicators/cpu_communicator.py:235) names the memory of its CPU ranks after the port of
    its rendezvous, which an engine that joins an existing world has none of: two runs on one machine, or one after a
    killed one, would meet at the same name and fail.
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
            # Every rank has it mapped by now: without its name it goes when the last of them ends, however it ends.
            Path("/dev/shm", f"{self.group_name}_{self.communicator.rank}").unlink(missing_ok=True)
            return handle

    cpu_communicator._CPUSHMDistributed = NamedMemory
