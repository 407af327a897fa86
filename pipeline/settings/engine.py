"""Which rollout engine a run samples with. The plan, the launcher and every rank ask here, so they all agree."""

import importlib.util
from typing import Literal

from pipeline.common.devices import gpu_count
from pipeline.common.errors import UsageError
from pipeline.settings import Cluster, Settings
from pipeline.settings.levers import BACKEND, check_transformer_engine, of_transformer_engine

Engine = Literal["native", "vllm"]


def uses_gpus(cluster: Cluster) -> bool:
    """Whether the ranks run on GPUs: as `cluster.device` says; auto means yes if this machine has enough of them."""
    if cluster.device != "auto":
        return cluster.device == "cuda"
    return gpu_count() >= cluster.devices_per_node


def chosen_engine(settings: Settings) -> Engine:
    """The engine that `rollout.engine` means; auto is resolved.

    auto: vllm if the actor has pipeline stages (the native engine cannot cross them), or if the ranks run on GPUs and
    vLLM is installed; native otherwise. A machine without GPUs that plans a run on GPUs cannot know what is installed
    there, and expects vLLM, which run.sh installs on every GPU machine.
    """
    if settings.rollout.engine != "auto":
        return settings.rollout.engine
    if settings.layout.pp > 1:
        return "vllm"
    if not uses_gpus(settings.cluster):
        return "native"
    return "vllm" if is_installed() or gpu_count() == 0 else "native"


def sampled_elsewhere(settings: Settings) -> bool:
    """Whether training sees tokens of another engine than the actor, or of older weights."""
    is_stale = settings.rl.async_depth > 0 or settings.rollout.partial_tokens > 0
    return is_stale or chosen_engine(settings) != "native"


def why_chosen(settings: Settings) -> str:
    """The reason for the choice, as a clause: `rollout.engine=auto means native on cluster.device=cpu`."""
    engine = chosen_engine(settings)
    if settings.rollout.engine != "auto":
        return f"rollout.engine={engine}"
    if settings.layout.pp > 1:
        reason = f"with layout.pp={settings.layout.pp}"
    elif not uses_gpus(settings.cluster):
        reason = "on CPU"
    else:
        reason = "on GPUs" if engine == "vllm" else "where vLLM is not installed"
    return f"rollout.engine=auto means {engine} {reason}"


def is_installed() -> bool:
    """Whether this Python can import vLLM."""
    return importlib.util.find_spec("vllm") is not None


def check_installed(settings: Settings) -> None:
    """Raises `UsageError` if the run samples with vLLM and this Python cannot import it. Servers of rollout.mode=serve have an
    environment of their own."""
    if chosen_engine(settings) == "vllm" and settings.rollout.mode != "serve" and not is_installed():
        raise UsageError(
            f"{why_chosen(settings)}, but vLLM is not installed. On a GPU machine run.sh installs it; on a CPU, set "
            "ETR_EXTRAS=cpu-vllm. Or use rollout.engine=native with layout.pp=1."
        )


def not_on_gpus(cluster: Cluster) -> str | None:
    """Why kernels for GPUs cannot be used, as a clause; None if the ranks run on GPUs."""
    return None if uses_gpus(cluster) else "the ranks run on the CPU"


def check_backend(settings: Settings) -> None:
    """Raises `UsageError` if the layers are to be Transformer Engine's, or a lever needs it, and cannot on this machine."""
    levers = of_transformer_engine(settings.rl) if settings.stage == "rl" else []
    why_not = not_on_gpus(settings.cluster)
    if why_not is None and importlib.util.find_spec("transformer_engine") is None:
        why_not = (
            "it is not installed (run.sh builds it on a machine with a GPU and nvcc; stage=doctor says what failed)"
        )
    named = [BACKEND] * (settings.model.backend == "te") + levers
    check_transformer_engine(named, settings.model, why_not)
