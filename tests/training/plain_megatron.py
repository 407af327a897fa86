"""Run by test_checkpoints.py: writes a checkpoint with megatron-core alone, as any other program would, and reads one of ours.

    plain_megatron.py <folder to write> <folder of our checkpoint>

Beside the folder it writes `expected.pt`, what it saved, and `read.pt`, what it found in ours: the weights and Adam's memory by
the keys of Megatron's own state dicts. Nothing of this project takes part; the patches are imported only because megatron-core
does not run without CUDA otherwise, and put an Adam in the place of apex's, which a machine with GPUs has.
"""

import sys
from pathlib import Path

import megatron_patches  # noqa: F401
from megatron_patches.training.optimizer import install_adam

import torch  # isort: skip
from megatron.core import dist_checkpointing, parallel_state  # isort: skip
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig  # isort: skip
from megatron.core.models.gpt import GPTModel  # isort: skip
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # isort: skip
from megatron.core.optimizer import OptimizerConfig, get_megatron_optimizer  # isort: skip
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed  # isort: skip
from megatron.core.transformer import TransformerConfig  # isort: skip
from megatron.core.transformer.enums import AttnBackend  # isort: skip

FORMAT = {"distrib_optim_sharding_type": "fully_reshardable"}


def build(seed: int) -> tuple[DistributedDataParallel, object]:
    model_parallel_cuda_manual_seed(seed)
    torch.manual_seed(seed)
    config = TransformerConfig(
        attention_backend=AttnBackend.local,
        num_layers=2, hidden_size=64, ffn_hidden_size=96, num_attention_heads=4, num_query_groups=2, kv_channels=16,
        normalization="RMSNorm", gated_linear_unit=True, activation_func=torch.nn.functional.silu, add_bias_linear=False,
        use_cpu_initialization=True, persist_layer_norm=False, bias_dropout_fusion=False, masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
    )  # fmt: skip
    module = GPTModel(
        config, get_gpt_layer_local_spec(normalization="RMSNorm"), vocab_size=128, max_sequence_length=256,
        position_embedding_type="rope", share_embeddings_and_output_weights=False,
    )  # fmt: skip
    options = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=True)
    model = DistributedDataParallel(config, options, module)
    install_adam()
    chosen = OptimizerConfig(optimizer="adam", lr=1e-2, use_distributed_optimizer=True, params_dtype=torch.float32)
    return model, get_megatron_optimizer(chosen, [model])


def step(model, optimizer) -> None:
    """One step of Adam, by whatever gradients."""
    model.zero_grad_buffer()
    for parameter in model.parameters():
        parameter.main_grad.normal_()
    model.finish_grad_sync()
    optimizer.step()


def sharded(model, optimizer, is_loading: bool) -> dict:
    state = {"model": model.module.sharded_state_dict()}
    return state | {"optimizer": optimizer.sharded_state_dict(state, is_loading=is_loading, metadata=FORMAT)}


def held(model, optimizer) -> dict:
    """The weights by name, and Adam's numbers in the order of its parameters."""
    inner = optimizer.chained_optimizers[0]
    return {
        "weights": {name: parameter.data for name, parameter in model.module.named_parameters()},
        "adam": [dict(inner.optimizer.state[parameter]) for parameter in inner.get_parameters()],
    }


def main(target: Path, ours: Path) -> None:
    torch.distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel()
    model, optimizer = build(seed=7)
    step(model, optimizer)
    target.mkdir(parents=True)
    state = sharded(model, optimizer, is_loading=False) | {"iteration": 5, "args": {"note": "from elsewhere"}}
    dist_checkpointing.save(state, str(target))
    torch.save(held(model, optimizer), target.parent / "expected.pt")

    model, optimizer = build(seed=8)
    found = dist_checkpointing.load(sharded(model, optimizer, is_loading=True), str(ours))
    model.module.load_state_dict(found["model"])
    optimizer.load_state_dict(found["optimizer"])
    torch.save(held(model, optimizer), target.parent / "read.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
