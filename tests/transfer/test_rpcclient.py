from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from falcon_agent.transfer.failure import Rejected, Unreachable
from falcon_agent.transfer.rpcclient import RpcClient
from tests.transfer import rpcdouble
from tests.transfer.pushing import BODY

if TYPE_CHECKING:
    from tests.transfer.rpcdouble import RpcDouble


def test_a_push_is_accepted(rpc: RpcDouble) -> None:
    with closing(RpcClient(rpc.address, 10.0)) as pushing:
        reply = pushing.post(BODY)
    assert (reply.total, reply.invalid, reply.message, reply.address) == (1, 0, "ok", rpc.address)
    assert reply.latency > 0
    assert reply.server_time is None
    assert rpc.accepted == json.loads(BODY)


def test_an_empty_push(rpc: RpcDouble) -> None:
    with closing(RpcClient(rpc.address, 10.0)) as pushing:
        assert pushing.post(b"[]").total == 0


def test_invalid_records_are_counted(rpc: RpcDouble) -> None:
    with closing(RpcClient(rpc.address, 10.0)) as pushing:
        assert pushing.post(b'[{"tags":"poison=invalid"},{"tags":""}]').invalid == 1


def test_a_type_error_is_the_bodys_fault_and_the_connection_survives(rpc: RpcDouble) -> None:
    with closing(RpcClient(rpc.address, 10.0)) as pushing:
        with pytest.raises(Rejected, match="badly typed") as caught:
            pushing.post(b'[{"tags":"poison=400"}]')
        assert pushing.post(BODY).total == 1
    assert caught.value.body_at_fault
    assert caught.value.reason == "rpc_error"
    assert str(caught.value).startswith(f"cannot push to {rpc.address}: it answered an error 'json: cannot")
    assert rpc.connections == 1


def test_another_service_is_not_the_bodys_fault(rpc: RpcDouble) -> None:
    rpc.default = rpcdouble.answer(None, "rpc: can't find service Transfer.Update")
    with (
        closing(RpcClient(rpc.address, 10.0)) as pushing,
        pytest.raises(Rejected, match="is this the JSON-RPC port of a transfer") as caught,
    ):
        pushing.post(BODY)
    assert not caught.value.body_at_fault


@pytest.mark.parametrize(
    "result", [None, {}, [], "ok", {"Total": 1}, {"Total": 1, "Invalid": 2}, {"Total": "1", "Invalid": 0}]
)
def test_a_result_that_no_transfer_says(rpc: RpcDouble, result: Any) -> None:
    rpc.default = rpcdouble.answer(result)
    with closing(RpcClient(rpc.address, 10.0)) as pushing, pytest.raises(Unreachable) as caught:
        pushing.post(BODY)
    assert caught.value.reason == "garbage"


def test_a_silent_close_is_unreachable(rpc: RpcDouble) -> None:
    rpc.default = rpcdouble.close
    with closing(RpcClient(rpc.address, 10.0)) as pushing, pytest.raises(Unreachable) as caught:
        pushing.post(BODY)
    assert caught.value.reason == "closed"
    assert str(caught.value).startswith(f"cannot push to {rpc.address}: ")
