"""Several servers of `rollout.mode=serve`: load, loss, and what they were started with. Real vLLM: tests/vllm/test_serve.py."""

import threading
import time

import pytest
import torch
from stand_in_server import StandIn, tokens_of

from pipeline.common.errors import InputError, UsageError
from pipeline.rollout.interface import Sampling
from pipeline.rollout.vllm.serve import fleet as fleets
from pipeline.rollout.vllm.serve.api import Wanted
from pipeline.rollout.vllm.serve.fleet import Fleet, Request
from pipeline.rollout.vllm.serve.http import ServerError
from pipeline.rollout.vllm.serve.sending import joined, spread

WEIGHTS = {"a": torch.arange(12.0).reshape(6, 2), "b": torch.tensor([1.5, float("nan")]).bfloat16()}
HOW = Sampling(max_new_tokens=5)


def pieces():
    """The weights; memory is used again, as the buckets of a sync do."""
    room = torch.empty(6, 2)
    for name, tensor in WEIGHTS.items():
        if tensor.dtype == room.dtype:
            room.copy_(tensor)
            yield name, None, room
            room.fill_(-1)
        else:
            yield name, None, tensor


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(fleets, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(fleets, "GRACE_SECONDS", 0.2)


@pytest.fixture
def servers():
    started = [StandIn(), StandIn()]
    yield started
    for server in started:
        if not server.is_lost:
            server.lose()


def fleet_of(servers, most=4, patience=5.0) -> Fleet:
    return Fleet([server.url for server in servers], Wanted("float32", 64), most, 20.0, patience)


def sent(fleet: Fleet, label="w1") -> Fleet:
    fleet.gather()
    fleet.send(pieces(), label, [])
    return fleet


def requests_of(count: int) -> list[Request]:
    return [Request(i, 0, [1] * (1 + i % 7), i, 5) for i in range(count)]


def run(fleet: Fleet, count=40) -> dict[int, list[int]]:
    found = {}
    left = fleet.run(requests_of(count), HOW, lambda request, sampled: found.update({request.group: sampled.token_ids}))
    assert {request.group for request in left}.isdisjoint(found)
    assert len(left) + len(found) == count
    return found


EXPECTED = {i: tokens_of(i, 5) for i in range(40)}


def test_every_server_gets_the_weights_and_about_half_of_the_requests(servers):
    fleet = sent(fleet_of(servers))
    for server in servers:
        assert torch.equal(server.held["a"], WEIGHTS["a"])
        assert torch.equal(server.held["b"].view(torch.int16), WEIGHTS["b"].view(torch.int16))
        assert (server.label, server.is_paused) == ("w1", False)
        assert server.asked.index("/reset_prefix_cache") > server.asked.index("/finish_weight_update")
    assert run(fleet) == EXPECTED
    shares = [
        server.asked.count("/inference/v1/generate") - 1 for server in servers
    ]  # one asks whether the route is there
    assert sum(shares) == 40
    assert min(shares) >= 10
    assert max(server.most for server in servers) <= 4
    assert [server.load for server in fleet.servers] == [0, 0]
    assert fleet.score([[3, 5, 7]]) == [[[-5.0, -7.0]]] * 2


def test_the_next_request_goes_to_the_server_with_the_fewest_tokens_under_way(servers):
    fleet = sent(fleet_of(servers, most=40))
    together = threading.Barrier(11)  # nothing is answered before all is asked
    for server in servers:
        server.before = together.wait
    long, short = [Request(0, 0, [1] * 50, 0, 5)], [Request(i, 0, [1], i, 4) for i in range(1, 11)]
    assert fleet.run(short + long, HOW, lambda *both: None) == []
    assert sorted(server.most for server in servers) == [1, 10]


def test_requests_of_a_lost_server_go_to_the_other_and_it_gets_the_newest_weights_when_it_is_back(servers, capsys):
    fleet = sent(fleet_of(servers))
    first, lost = threading.Lock(), threading.Thread(target=servers[0].lose)
    servers[0].before = lambda: lost.start() if first.acquire(blocking=False) else None
    assert run(fleet) == EXPECTED
    lost.join()
    assert [server.url for server in fleet.ready] == [servers[1].url]
    sent(fleet, "w2")
    assert run(fleet) == EXPECTED
    servers[0].before = None
    servers[0].held.clear()
    servers[0].start()
    sent(fleet, "w3")
    assert [server.label for server in servers] == ["w3", "w3"]
    assert torch.equal(servers[0].held["a"], WEIGHTS["a"])
    assert run(fleet) == EXPECTED
    said = capsys.readouterr().out.splitlines()
    assert [line.count(servers[0].url) for line in said] == [1, 1]
    assert "WARNING" in said[0]
    assert "there again" in said[1]


def test_a_server_that_was_out_of_reach_goes_on_without_new_weights(servers):
    fleet = sent(fleet_of(servers[:1]))
    failures = iter([RuntimeError("for a moment")])

    def fail_once() -> None:
        if error := next(failures, None):
            raise error

    servers[0].before = fail_once
    found = {}
    left = fleet.run(requests_of(8), HOW, lambda request, sampled: found.update({request.group: sampled.token_ids}))
    while left:
        assert fleet.wait(may_send=False)  # it says that it still has them
        left = fleet.run(left, HOW, lambda request, sampled: found.update({request.group: sampled.token_ids}))
    assert found == {i: EXPECTED[i] for i in range(8)}
    assert servers[0].asked.count("/init_weight_transfer_engine") == 1


def test_a_server_that_was_started_again_in_silence_is_not_trusted(servers):
    """Its port answers as before, from weights of its own."""
    fleet = sent(fleet_of(servers))
    servers[0].label = "default"
    assert run(fleet) == EXPECTED
    assert [server.url for server in fleet.ready] == [servers[1].url]


def test_a_server_that_fails_in_a_transfer_is_lost_alone(servers, capsys):
    reply, failures = servers[0].reply, [RuntimeError("no memory")]

    def fail_once(path, body):
        if path == "/update_weights" and failures:
            servers[0].stream.close()
            raise failures.pop()
        return reply(path, body)

    servers[0].reply = fail_once
    fleet = sent(fleet_of(servers))
    assert [server.url for server in fleet.ready] == [servers[1].url]
    assert "HTTP 500: no memory" in capsys.readouterr().out
    assert run(fleet) == EXPECTED
    assert len(sent(fleet, "w2").ready) == 2
    assert torch.equal(servers[0].held["a"], WEIGHTS["a"])


def test_no_server_left_ends_with_all_addresses(servers):
    fleet = sent(fleet_of(servers, patience=0.3))
    for server in servers:
        server.lose()
    assert run(fleet) == {}
    with pytest.raises(ServerError, match=f"{servers[0].url}.*{servers[1].url}.*docs/rollout.md"):
        fleet.wait(may_send=True)
    with pytest.raises(InputError, match=f"{servers[0].url}.*{servers[1].url}"):
        fleet_of(servers, patience=0.3).gather()


def test_a_request_that_fails_everywhere_ends_the_run(servers):
    fleet = sent(fleet_of(servers))

    def fail() -> None:
        raise RuntimeError("out of memory")

    for server in servers:
        server.before = fail
    found = []

    def until_it_ends() -> None:
        left = requests_of(1)
        for _ in range(30):
            left = fleet.run(left, HOW, lambda *both: found.append(both))
            fleet.wait(may_send=False)

    with pytest.raises(ServerError, match=r"failed 5 times.*HTTP 500: out of memory"):
        until_it_ends()
    assert not found


@pytest.mark.parametrize(
    ("facts", "option"),
    [
        ({"backend": None}, "--weight-transfer-config"),
        ({"backend": "ipc"}, "ipc is not supported"),
        ({"dtype": "bfloat16"}, "--dtype float32"),
        ({"max_tokens": 32}, "--max-model-len 64"),
        ({"logprobs_mode": "raw_logprobs"}, "--logprobs-mode processed_logprobs"),
    ],
)
def test_a_server_that_does_not_fit_is_named_with_its_option(facts, option):
    server = StandIn(facts)
    with pytest.raises(ServerError, match=f"{server.url}.*{option}"):
        fleet_of([server]).gather()
    server.lose()


@pytest.mark.parametrize(
    ("path", "option"), [("/weight_info", "VLLM_SERVER_DEV_MODE=1"), ("/inference/v1/generate", "--enable-scale-out")]
)
def test_a_route_that_is_missing_is_named(path, option):
    class Lacking(StandIn):
        def reply(self, asked, body):
            if asked == path:
                raise LookupError(asked)
            return super().reply(asked, body)

    server = Lacking()
    with pytest.raises(ServerError, match=f"{server.url}.*{option}"):
        fleet_of([server]).gather()
    server.lose()


def test_a_key_is_sent(monkeypatch):
    server = StandIn(key="secret")
    with pytest.raises(ServerError, match=r"HTTP 401.*VLLM_API_KEY"):
        run(sent(fleet_of([server])))
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    assert run(sent(fleet_of([server]))) == EXPECTED
    server.lose()


def test_a_stranger_on_the_port_of_the_transfer_gets_no_weights(servers, monkeypatch):
    """Who cannot show the token that the server got over HTTP is hung up on."""
    import socket

    from pipeline.rollout.vllm.serve import wire

    strange = []
    reply = servers[0].reply

    def first_a_stranger(path, body):
        if path == "/init_weight_transfer_engine":
            info = body["init_info"]["info"]
            stream = socket.create_connection((info["host"], info["port"]), 20)
            wire.send_header(stream, {"token": "guess"})
            strange.append(stream.recv(1))
        return reply(path, body)

    servers[0].reply = first_a_stranger
    sent(fleet_of(servers[:1]))
    assert strange == [b""]
    assert torch.equal(servers[0].held["a"], WEIGHTS["a"])


def test_a_walk_is_given_to_all_and_goes_on_when_one_fails():
    seen: list[list[float]] = [[], []]

    def take(number, pieces):
        for _, _, tensor in pieces:
            time.sleep(0.001 * number)
            seen[number].append(float(tensor.sum()))
            if number and len(seen[1]) == 3:
                raise OSError("broken")

    room = torch.empty(2)
    walk = (("t", None, room.fill_(i)) for i in range(6))  # one memory for all
    errors = spread(walk, [lambda pieces, number=number: take(number, pieces) for number in range(2)])
    assert seen == [[0.0, 2.0, 4.0, 6.0, 8.0, 10.0], [0.0, 2.0, 4.0]]
    assert errors[0] is None
    assert str(errors[1]) == "broken"


def test_pieces_are_joined_to_tensors_of_their_own():
    whole = torch.arange(14.0).reshape(7, 2)
    walk = [("x", 4, whole[4:]), ("y", None, whole), ("x", 0, whole[:4])]
    found = dict(joined(walk, {"x": (7, 2), "y": (7, 2)}))
    assert list(found) == ["y", "x"]
    whole_before = whole.clone()
    whole.zero_()
    assert all(torch.equal(tensor, whole_before) for tensor in found.values())


@pytest.mark.parametrize(
    "url", ["node0:8000", "ftp://node0:1", "http://", "http://a:b", "http://u:p@node0:1", "http://a:0"]
)
def test_a_wrong_url_is_an_error(url):
    from pipeline.common.addresses import parse_url

    with pytest.raises(UsageError, match="expected http://host:port"):
        parse_url(url)
