"""vLLM's classes for weight transfer: the worker's side, which is registered, and the trainer's side of NCCL.

vLLM moved these classes several times in 2026. Nothing else in the project names them; the routes that belong to them are in
`api`. Written for vLLM 0.32 (vllm/distributed/weight_transfer).
"""

from collections.abc import Callable, Iterator
from dataclasses import make_dataclass
from typing import Any, Protocol

import torch

from pipeline.common.errors import UsageError


class Receiver(Protocol):
    """One worker's side of a transfer, without vLLM's names."""

    def __init__(self, model: torch.nn.Module, device: torch.device, rank: int): ...

    def open(self, info: dict[str, Any]) -> None:
        """Connects to the trainer, instead of the one before."""

    def receive(self) -> None:
        """Takes the weights of one update, to the last."""

    def close(self) -> None: ...


def register(name: str, receiver: type[Receiver]) -> None:
    """Makes `receiver` a backend of `--weight-transfer-config` in this worker."""
    from vllm.distributed.weight_transfer.base import (
        WeightTransferEngine,
        WeightTransferInitInfo,
        WeightTransferUpdateInfo,
    )
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    init_info = make_dataclass("InitInfo", [("info", dict)], bases=(WeightTransferInitInfo,))
    update_info = make_dataclass("UpdateInfo", [], bases=(WeightTransferUpdateInfo,))

    class Engine(WeightTransferEngine):  # type: ignore[type-arg]
        """Gives vLLM's calls to the receiver, which writes into the parameters in place."""

        init_info_cls = init_info
        update_info_cls = update_info
        supports_draft_weight_update = False

        def __init__(self, config: Any, vllm_config: Any, device: torch.device, model: torch.nn.Module):
            super().__init__(config, vllm_config, device, model)
            parallel = vllm_config.parallel_config
            rank = parallel.data_parallel_index * parallel.world_size + parallel.rank
            self.receiver = receiver(model, device, rank)

        def init_transfer_engine(self, init_info: Any) -> None:
            self.receiver.open(init_info.info)

        def start_weight_update(self) -> None: ...

        def receive_weights(self, update_info: Any) -> None:
            self.receiver.receive()

        def finish_weight_update(self) -> None: ...

        def shutdown(self) -> None:
            self.receiver.close()

    if name not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(name, Engine)


class NcclSender:
    """The trainer's side of vLLM's backend `nccl`: its own class does the work."""

    def __init__(
        self,
        calls: Any,
        address: str,
        port: int,
        workers: int,
        tensors: Callable[[], Iterator[tuple[str, torch.Tensor]]],
        shapes: list[tuple[str, torch.dtype, tuple[int, ...]]],
    ):
        """Connects to the workers of one server.

        Args:
            calls: has vLLM's methods `init_weight_transfer_engine(dict)`, `start_weight_update()`, `update_weights(dict)` and
                `finish_weight_update()`.
            address, port: at which this process awaits the workers.
            tensors: gives the whole tensors of the next update, in the order of `shapes`; each stays as it is.

        Raises UsageError if vLLM is not installed here, or is another version.
        """
        try:
            from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
            from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory
            from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        except ImportError as error:
            raise UsageError(
                f"the servers transfer weights over nccl, and for that the trainer needs vLLM 0.32 as well ({error}). Install "
                "it, or start the servers with the backend etr_tcp (docs/rollout.md)"
            ) from error

        class Source(WeightSource):
            def metadata(self) -> list[Any]:
                return [ParamMeta(name, dtype, shape) for name, dtype, shape in shapes]

            def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
                return tensors()

        info = NCCLTrainerInitInfo(master_address=address, master_port=port, world_size=workers + 1, rank=0)
        self.engine: Any = WeightTransferTrainerFactory.trainer_init(info, client=calls, source=Source())

    def send(self) -> None:
        """Starts an update, sends all tensors, and finishes it."""
        self.engine.send_weights()

    def close(self) -> None:
        self.engine.shutdown()
