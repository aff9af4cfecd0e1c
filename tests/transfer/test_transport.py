from __future__ import annotations

import gzip
import json
import random
from contextlib import closing

import pytest

from falcon_agent.transfer.failure import Rejected, Unreachable
from falcon_agent.transfer.transport import make_transport
from tests.transfer.double import Double, answer
from tests.transfer.pushing import BODY, client, refused_address
from tests.transfer.rpcdouble import RpcDouble, close
from tests.transfer.rpcdouble import answer as rpc_answer


def test_the_next_address_is_tried_and_the_last_good_one_preferred(double: Double, second: Double) -> None:
    with client(refused_address(), double.address, second.address) as pushing:
        assert pushing.post(BODY).address == double.address
        pushing.post(BODY)
        double.default = answer("500 Broken")
        assert pushing.post(BODY).address == second.address
        double.default = None
        assert pushing.post(BODY).address == second.address
    assert (double.requests, second.requests) == (3, 2)


def test_after_the_last_address_comes_the_first(double: Double) -> None:
    with client(double.address, refused_address(), first=1) as pushing:
        assert pushing.post(BODY).address == double.address


def test_where_it_starts_is_random() -> None:
    addresses = [f"http://127.0.0.1:1/{number}" for number in range(8)]
    starts = set()
    for seed in range(50):
        with closing(make_transport(addresses, 1.0, rng=random.Random(seed))) as made:
            starts.add(made._next)
    assert starts == set(range(8))


def test_a_wrong_path_at_one_address_does_not_stop_the_other(double: Double, second: Double) -> None:
    with client(double.address + "/", second.address) as pushing:
        assert pushing.post(BODY).address == second.address


def test_a_bad_body_is_not_tried_at_the_next_address(double: Double, second: Double) -> None:
    with client(double.address, second.address) as pushing, pytest.raises(Rejected):
        pushing.post(b"{}")
    assert second.requests == 0


def test_when_all_fail_each_is_named(double: Double) -> None:
    double.default = answer("404 Not Found", b"nope")
    refused = refused_address()
    with client(refused, double.address) as pushing, pytest.raises(Unreachable) as caught:
        pushing.post(BODY)
    message = str(caught.value)
    assert message.startswith("cannot push to any of 2 addresses: ")
    assert f"{refused}: connection refused" in message
    assert f"{double.address}: it answered 404 'nope'" in message
    assert caught.value.retry_after is None


def test_http_and_json_rpc_are_equals(double: Double, rpc: RpcDouble) -> None:
    with client(double.address, rpc.address) as pushing:
        assert pushing.post(BODY).address == double.address
        double.default = answer("500 Broken")
        assert pushing.post(BODY).address == rpc.address
        double.default = None
        assert pushing.post(BODY).address == rpc.address
        rpc.default = close
        assert pushing.post(BODY).address == double.address
    assert (len(double.accepted), len(rpc.accepted)) == (2, 2)


def test_another_service_at_one_address_does_not_stop_the_other(double: Double, rpc: RpcDouble) -> None:
    with client(rpc.address, double.address) as pushing:
        rpc.default = rpc_answer(None, "rpc: can't find service Transfer.Update")
        assert pushing.post(BODY).address == double.address


def test_compression_is_for_http_only(double: Double, rpc: RpcDouble) -> None:
    nightingale = double.address.replace("/api/push", "/openfalcon/push")
    for address in (nightingale, rpc.address):
        with closing(make_transport([address], 10.0, gzip=True)) as made:
            assert made.post(BODY).total == 1
    assert double.seen_headers[0]["Content-Encoding"] == "gzip"
    assert int(double.seen_headers[0]["Content-Length"]) == len(gzip.compress(BODY, 1))
    assert double.accepted == rpc.accepted == json.loads(BODY)


def test_closing_closes_all(double: Double, rpc: RpcDouble) -> None:
    with client(double.address, rpc.address) as pushing:
        pushing.close()
        with pytest.raises(Unreachable) as caught:
            pushing.post(BODY)
    assert caught.value.reason == "stopping"
    assert double.requests == 0
    assert rpc.calls == []
