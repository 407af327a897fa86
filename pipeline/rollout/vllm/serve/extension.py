"""What a worker of `vllm serve` imports: `--worker-extension-cls pipeline.rollout.vllm.serve.extension.Extension`.

The import registers the transfer backend `etr_tcp`. On a CPU it also keeps vLLM from packing weights, as
`pipeline.rollout.vllm.environment` says. vLLM imports it before it builds the model.
"""

import socket
from typing import Any

import torch

from pipeline.rollout.vllm import blocks, environment, sampler
from pipeline.rollout.vllm.loading import load
from pipeline.rollout.vllm.serve import weight_api, wire

CONNECT_SECONDS = 60.0


class Receiver:
    """One worker's connection to the trainer, and the parameters that it writes."""

    def __init__(self, model: torch.nn.Module, device: torch.device, rank: int):
        self.model, self.device, self.rank = model, device, rank
        self.stream: socket.socket | None = None

    def open(self, info: dict[str, Any]) -> None:
        """Connects to `info`'s host and port, and shows its token."""
        self.close()
        self.stream = socket.create_connection((info["host"], int(info["port"])), CONNECT_SECONDS)
        self.stream.settimeout(float(info["timeout_s"]))
        wire.send_header(self.stream, {"token": info["token"], "rank": self.rank})

    def receive(self) -> None:
        """Writes every piece into the model's parameters, to the end of the update."""
        if self.stream is None:
            raise RuntimeError("no trainer is connected: call init_weight_transfer_engine first")
        try:
            load(self.model, wire.read_pieces(self.stream, self.device))
        except BaseException:
            self.close()  # what is left in the connection belongs to an update that is lost
            raise

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()
        self.stream = None


class Extension:
    """Methods that vLLM adds to its worker, for the route `/collective_rpc`."""

    def etr_facts(self) -> dict[str, Any]:
        """What the trainer checks before it uses the server (`api.Facts`)."""
        config = self.vllm_config  # type: ignore[attr-defined]
        model, transfer = config.model_config, config.weight_transfer_config
        return {
            "backend": transfer.backend if transfer is not None else None,
            "dtype": str(model.dtype).removeprefix("torch."),
            "max_tokens": model.max_model_len,
            "logprobs_mode": str(model.logprobs_mode),
        }

    def etr_checksums(self) -> dict[str, list[Any]]:
        """The checksums of this worker's weights, as JSON: the sums as hexadecimal text, because JSON has no NaN."""
        found = blocks.checksums(self.model_runner.get_model())  # type: ignore[attr-defined]
        return {name: [dim, first, length, float(total).hex()] for name, (dim, first, length, total) in found.items()}


weight_api.register(wire.BACKEND, Receiver)
if not torch.cuda.is_available():
    environment.leave_weights_unpacked()
    sampler.stay_eager()
