"""What a process that holds a vLLM engine must set up before vLLM is first imported."""

import importlib.util
import os

import torch

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
    """Set the process up. What the user has set stays, except where anything else would be wrong.

    On a CPU, oneDNN is switched off for vLLM's matrix products: it packs the weights away when a model is loaded and goes
    on with the packed ones after an update (silently, where embeddings are tied). Without it the products read the
    parameters themselves. To be called before `import vllm`; torch.distributed is to be initialised by then.
    """
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    os.environ.setdefault("LOCAL_RANK", "0")
    if not torch.cuda.is_available():
        import vllm._custom_ops as operators

        operators._supports_onednn = False
