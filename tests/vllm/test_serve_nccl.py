"""The transfer over NCCL as far as it goes without a GPU: vLLM's own classes drive it, and NCCL alone is replaced by a list.

So the names that `weight_api` uses are those of the installed vLLM, the order and shapes of the tensors pass its check, and the
requests to the server are the ones it makes. Not covered: NCCL and the servers' workers.
"""

import importlib.util

import pytest
import torch
from stand_in_server import StandIn

from pipeline.common.errors import UsageError
from pipeline.rollout.vllm.serve.api import Wanted
from pipeline.rollout.vllm.serve.fleet import Fleet

pytestmark = [
    pytest.mark.slow,  # imports vLLM: 10 s
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vllm is not installed (ETR_EXTRAS=cpu-vllm bash run.sh ...)"
    ),
]

WEIGHTS = {"embed": torch.arange(14.0).reshape(7, 2), "norm": torch.tensor([2.0, 3.0])}


class NcclStandIn(StandIn):
    """A server with the backend `nccl`: it keeps what it is told."""

    def __init__(self):
        self.told: dict[str, dict] = {}
        super().__init__({"backend": "nccl"})

    def reply(self, path, body):
        if path in ("/init_weight_transfer_engine", "/update_weights"):
            self.told[path] = body
            return {}
        return super().reply(path, body)


def pieces():
    whole = WEIGHTS["embed"]
    room = torch.empty(4, 2)
    for first in (4, 0):
        rows = room[: min(4, 7 - first)]
        yield "embed", first, rows.copy_(whole[first : first + 4])
    yield "norm", None, WEIGHTS["norm"]


def test_vllm_s_own_class_sends_whole_tensors_to_each_server(monkeypatch):
    from vllm.distributed.weight_transfer import nccl_engine
    from vllm.distributed.weight_transfer.nccl_common import NCCLWeightTransferInitInfo

    sent: dict[int, dict[str, torch.Tensor]] = {}

    class Group:
        def __init__(self, info):
            sent[info.master_port] = {}
            self.port = info.master_port

        def destroy(self): ...

    def broadcast(iterator, group, **options):
        sent[group.port] |= dict(iterator)

    monkeypatch.setattr(nccl_engine, "open_trainer_endpoint", Group)
    monkeypatch.setattr(nccl_engine, "packed_nccl_broadcast_producer", broadcast)
    servers = [NcclStandIn(), NcclStandIn()]
    fleet = Fleet([server.url for server in servers], Wanted("float32", 64), 4, 20.0, 5.0)
    layout = [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in WEIGHTS.items()]
    fleet.gather()
    assert fleet.needs_layout
    for label in ("w1", "w2"):
        fleet.send(pieces(), label, layout)
        assert [server.label for server in servers] == [label, label]
    assert len(sent) == 2
    for server in servers:
        info = NCCLWeightTransferInitInfo(**server.told["/init_weight_transfer_engine"]["init_info"])
        assert (info.rank_offset, info.world_size, info.master_address) == (1, 2, "127.0.0.1")
        for name, tensor in WEIGHTS.items():
            assert torch.equal(sent[info.master_port][name], tensor)
        update = server.told["/update_weights"]["update_info"]
        assert (update["names"], update["shapes"]) == (["embed", "norm"], [[7, 2], [2]])
        assert update["dtype_names"] == ["float32", "float32"]
        server.lose()
    fleet.close()


def test_a_trainer_without_vllm_is_told_what_nccl_needs(monkeypatch):
    import sys

    server = NcclStandIn()
    fleet = Fleet([server.url], Wanted("float32", 64), 4, 20.0, 5.0)
    fleet.gather()
    monkeypatch.setitem(sys.modules, "vllm.distributed.weight_transfer.nccl_engine", None)
    with pytest.raises(UsageError, match="etr_tcp"):
        fleet.send(pieces(), "w1", [])
    server.lose()
