"""Run by test_checkpoints.py: writes a checkpoint with megatron-core alone, as any other program would.

Nothing of this project writes it; the patches are imported only because megatron-core does not run without CUDA otherwise.
"""

import sys
from pathlib import Path

import megatron_patches  # noqa: F401

import torch  # isort: skip
from megatron.core import dist_checkpointing, parallel_state  # isort: skip
from megatron.core.models.gpt import GPTModel  # isort: skip
from megatron.core.models.gpt.gpt_layer_specs import get_gpt_layer_local_spec  # isort: skip
from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed  # isort: skip
from megatron.core.transformer import TransformerConfig  # isort: skip
from megatron.core.transformer.enums import AttnBackend  # isort: skip


def main() -> None:
    folder = Path(sys.argv[1])
    torch.distributed.init_process_group("gloo")
    parallel_state.initialize_model_parallel()
    model_parallel_cuda_manual_seed(7)
    config = TransformerConfig(
        attention_backend=AttnBackend.local,
        num_layers=2, hidden_size=64, ffn_hidden_size=96, num_attention_heads=4, num_query_groups=2, kv_channels=16,
        normalization="RMSNorm", gated_linear_unit=True, activation_func=torch.nn.functional.silu, add_bias_linear=False,
        use_cpu_initialization=True, persist_layer_norm=False, bias_dropout_fusion=False, masked_softmax_fusion=False,
        gradient_accumulation_fusion=False,
    )  # fmt: skip
    model = GPTModel(
        config, get_gpt_layer_local_spec(normalization="RMSNorm"), vocab_size=128, max_sequence_length=256,
        position_embedding_type="rope", share_embeddings_and_output_weights=False,
    )  # fmt: skip
    folder.mkdir(parents=True)
    state = {"model": model.sharded_state_dict(), "iteration": 5, "args": {"note": "from elsewhere"}}
    dist_checkpointing.save(state, str(folder))
    torch.save(model.state_dict_for_save_checkpoint(), folder.parent / "expected.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
